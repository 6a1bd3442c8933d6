"""Resolve the device and dtype settings on this machine."""

import os
from typing import Literal

import torch

from mint_common.errors import SettingInvalid
from services.trainer.core.placement import BaseDType, Checkpointing, Placement
from services.trainer.core.ranks import ProcessRank

_DEVICE = "MINT_TRAINER_DEVICE"


def place(
    *,
    device: str,
    dtype: Literal["auto", BaseDType],
    checkpointing: Checkpointing,
    memory_share: float | None,
    process: ProcessRank,
) -> Placement:
    """Return where the base goes. Raises SettingInvalid for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        chosen = "float32" if dtype == "auto" else dtype
        if memory_share is not None:
            problem = f"{memory_share}: takes no effect on the CPU"
            raise SettingInvalid(name="MINT_TRAINER_MEMORY_SHARE", problem=problem)
        return Placement(dtype=chosen, checkpointing=checkpointing)
    if not torch.cuda.is_available():
        raise SettingInvalid(name=_DEVICE, problem=f"{device}: torch {torch.__version__} sees no GPU here")
    _, _, number = device.partition(":")
    if number and process.count > 1:
        problem = f"{device}: each of {process.count} ranks takes a GPU of its own, so say cuda"
        raise SettingInvalid(name=_DEVICE, problem=problem)
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise SettingInvalid(name=_DEVICE, problem=f"{device}: {torch.cuda.device_count()} GPUs here")
    return Placement(
        dtype="bfloat16" if dtype == "auto" else dtype,
        device_type="cuda",
        index=index,
        checkpointing=checkpointing,
        memory_share=memory_share,
    )


def compute_deterministically() -> None:
    """Choose CUDA kernels that give the same bits each time; torch warns of operations that have none.

    Must run before the first use of a GPU. Atomic additions (`index_add`, the backward pass of attention)
    else round in any order.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
