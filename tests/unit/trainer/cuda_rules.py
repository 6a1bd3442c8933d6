"""CUDA's preconditions, checked on a CPU, which computes without them."""

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

_ALIGNED = 16
"""Bytes that an operand's address and rows are a multiple of (aten/src/ATen/native/cuda/GroupedMMUtils.h)."""


def checked_grouped_mm(x_SI: Tensor, weight_GIO: Tensor, *, offs: Tensor) -> Tensor:  # noqa: N803
    """Return the grouped product. Raises AssertionError for operands that CUDA's bfloat16 kernel misreads.

    It reads offsets as a dense array of int32 (GroupMM.cu: ``offs->const_data_ptr<int32_t>()``) and refuses
    the rest.
    """
    assert offs.dtype == torch.int32
    assert offs.dim() == 1
    assert offs.is_contiguous(), f"offsets with the stride {offs.stride()} are read as if they had none"
    for operand in (x_SI, weight_GIO):
        _check(operand.detach())
    product = grouped_mm(x_SI, weight_GIO, offs=offs)
    if product.requires_grad:
        product.register_hook(_check)
    return product


def _check(operand: Tensor) -> None:
    # On a device a storage begins aligned; a file's mapping on a CPU need not.
    assert operand.storage_offset() * operand.itemsize % _ALIGNED == 0
    rows, columns = operand.stride()[-2:]
    assert 1 in (rows, columns), "neither rows nor columns are contiguous"
    leading = rows if columns == 1 else columns
    assert leading * operand.itemsize % _ALIGNED == 0, (operand.shape, operand.stride(), operand.dtype)
