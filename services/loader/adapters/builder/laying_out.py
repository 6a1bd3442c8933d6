"""An adapter's weights in the engine's dtype, in memory without a name: a crash leaves nothing of it."""

import math
import mmap
import os
from pathlib import Path

import numpy as np

from mint_common.adapters_format.tensor_file import PAD_DTYPE, TensorEntry, TensorFile, map_tensors
from services.loader.adapters.builder.wire import LaidOut, TensorAt, write_index

_ITEM_BYTES = 4
_ALIGNED_ITEMS = 16  # 64 bytes
ENGINE_DTYPE = np.dtype("<f4")


def lay_out(weights: Path, *, rank: int) -> LaidOut:
    """Copy the tensors of a checked file into a memory file, in float32; its handle is its descriptor.

    Raises OSError, and then nothing stays.
    """
    source = map_tensors(weights)
    entries = [entry for entry in source.header.tensors if entry.dtype != PAD_DTYPE]
    placed, items = _place(entries)
    descriptor = os.memfd_create("mint-adapter", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(1, items) * _ITEM_BYTES)
        with mmap.mmap(descriptor, 0) as memory:
            target = np.frombuffer(memory, dtype=ENGINE_DTYPE)
            _copy(source, entries, placed, target)
            del target  # the mapping cannot be closed under a view
    except BaseException:
        os.close(descriptor)
        raise
    return LaidOut(
        handle=descriptor,
        path=f"/proc/{os.getpid()}/fd/{descriptor}",
        size_bytes=items * _ITEM_BYTES,
        rank=rank,
        tensor_index=write_index(placed),
    )


def _place(entries: list[TensorEntry]) -> tuple[list[TensorAt], int]:
    placed, begin = [], 0
    for entry in entries:
        placed.append(TensorAt(name=entry.name, shape=entry.shape, begin=begin))
        items = math.prod(entry.shape)
        begin += items + -items % _ALIGNED_ITEMS
    return placed, begin


def _copy(source: TensorFile, entries: list[TensorEntry], placed: list[TensorAt], target: np.ndarray) -> None:
    pairs = list(zip(entries, placed, strict=True))
    if all(entry.dtype == "F32" and entry.begin == at.begin * _ITEM_BYTES for entry, at in pairs):
        # Every tensor stands in the file as it is to stand in memory: one copy of them all.
        begin, end = source.header.data_begin, max((entry.end for entry in entries), default=0)
        items = end // _ITEM_BYTES
        target[:items] = np.frombuffer(source.mapped, dtype=ENGINE_DTYPE, count=items, offset=begin)
        return
    for entry, at in pairs:
        values = source.array(entry).reshape(-1)
        target[at.begin : at.begin + values.size] = _widened(values, entry.dtype)


def _widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32; a BF16, which comes as uint16, is the upper half of one."""
    if dtype == "BF16":
        return (values.astype("<u4") << 16).view(ENGINE_DTYPE)
    return values
