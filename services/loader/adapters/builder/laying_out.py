"""An adapter's weights in the engine's dtype, in memory without a name: a crash leaves nothing of it."""

import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mint_common.adapters_format.experts import narrowed, widened
from mint_common.adapters_format.tensor_file import PAD_DTYPE, TensorEntry, TensorFile, map_tensors
from mint_common.dtypes import Dtype
from services.loader.adapters.builder.arena import ArenaWriter
from services.loader.adapters.builder.wire import LaidOut, TensorAt, write_index

_ALIGNED_ITEMS = 16
_NUMPY: Mapping[Dtype, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),  # numpy itself has no bfloat16
    "float16": np.dtype("<f2"),
}
_OF_FILE: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def lay_out(
    weights: Path, *, rank: int, dtype: Dtype = "float32", arena: ArenaWriter | None = None
) -> LaidOut:
    """Copy the tensors of a checked file, in a dtype, into the arena, or where that has no room into a file.

    Each value is rounded once, to nearest and ties to even: alpha is in B already. Raises OSError, and then
    nothing stays.
    """
    source = map_tensors(weights)
    entries = [entry for entry in source.header.tensors if entry.dtype != PAD_DTYPE]
    placed, items = _place(entries)
    size_bytes = items * _NUMPY[dtype].itemsize

    def write(target: np.ndarray) -> None:
        _copy(source, entries, placed, target, of_file=_OF_FILE[dtype])

    begin = arena.take(size_bytes) if arena is not None else None
    if arena is not None and begin is not None:
        try:
            write(arena.items(begin, count=items, dtype=_NUMPY[dtype]))
        except BaseException:
            arena.give_back(begin)
            raise
        handle, path = begin, arena.path
    else:
        handle = _write_file(size_bytes, lambda memory: write(np.frombuffer(memory, _NUMPY[dtype], items)))
        path = f"/proc/{os.getpid()}/fd/{handle}"
    return LaidOut(
        handle=handle,
        path=path,
        begin=begin or 0,
        in_arena=begin is not None,
        size_bytes=size_bytes,
        rank=rank,
        tensor_index=write_index(placed),
    )


def _write_file(size_bytes: int, write: Callable[[mmap.mmap], None]) -> int:
    """Return the descriptor of a memory file that was written to."""
    descriptor = os.memfd_create("mint-adapter", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(1, size_bytes))
        with mmap.mmap(descriptor, 0) as memory:
            write(memory)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _place(entries: list[TensorEntry]) -> tuple[list[TensorAt], int]:
    placed, begin = [], 0
    for entry in entries:
        placed.append(TensorAt(name=entry.name, shape=entry.shape, begin=begin))
        items = math.prod(entry.shape)
        begin += items + -items % _ALIGNED_ITEMS
    return placed, begin


def _copy(
    source: TensorFile,
    entries: list[TensorEntry],
    placed: list[TensorAt],
    target: np.ndarray,
    *,
    of_file: str,
) -> None:
    pairs, item_bytes = list(zip(entries, placed, strict=True)), target.itemsize
    if all(entry.dtype == of_file and entry.begin == at.begin * item_bytes for entry, at in pairs):
        # Every tensor stands in the file as it is to stand in memory: one copy of them all.
        begin, end = source.header.data_begin, max((entry.end for entry in entries), default=0)
        items = end // item_bytes
        target[:items] = np.frombuffer(source.mapped, dtype=target.dtype, count=items, offset=begin)
        return
    for entry, at in pairs:
        values = source.array(entry).reshape(-1)
        if entry.dtype != of_file:
            with np.errstate(over="ignore"):  # the engine ends requests whose numbers are not finite
                values = narrowed(widened(values), target.dtype)
        target[at.begin : at.begin + values.size] = values
