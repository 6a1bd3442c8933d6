"""One memory for all laid out adapters, which a GPU reads without an intermediate copy.

The loader creates and owns it; builders write to it, one after the other; each worker of the engine maps it
once and registers it with its device. An adapter that does not fit gets its own memory file.

Invariants: a range given to the loader stays the loader's until it is released, whichever builder gave it;
a range that a dead builder had not given is free for the next one.
"""

import mmap
import os
from bisect import insort
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

ALIGNMENT = 256
"""Bytes: what a device reads at once, and a multiple of every item."""


class Arena:
    """Ranges of a memory of ``size_bytes``: they begin at multiples of `ALIGNMENT` and never overlap."""

    def __init__(self, size_bytes: int, *, taken: Iterable[tuple[int, int]] = ()) -> None:
        """``taken``: begin and size of ranges that are in use from the start."""
        self._size_bytes = size_bytes
        self._taken = sorted((begin, begin + size) for begin, size in taken)

    def take(self, size_bytes: int) -> int | None:
        """Return the beginning of the first free range of a size, None when there is none."""
        begin = 0
        for first, end in self._taken:
            if begin + size_bytes <= first:
                break
            begin = end + -end % ALIGNMENT
        if begin + size_bytes > self._size_bytes:
            return None
        insort(self._taken, (begin, begin + size_bytes))
        return begin

    def give_back(self, begin: int) -> None:
        """Free the range that begins there. Idempotent."""
        self._taken = [each for each in self._taken if each[0] != begin]


@contextmanager
def open_arena(size_bytes: int) -> Iterator[str]:
    """Create a memory of that size for the block; yield a path that processes of this user can open."""
    descriptor = os.memfd_create("mint-arena", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


class ArenaWriter(Arena):
    """A builder's side of it."""

    def __init__(self, path: str, *, taken: Iterable[tuple[int, int]]) -> None:
        """Map it; ``taken``: begin and size of the ranges that the loader has. Raises OSError."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        super().__init__(len(self._memory), taken=taken)

    def items(self, begin: int, *, count: int, dtype: np.dtype[np.generic]) -> np.ndarray:
        """Return a range as an array that writes to it."""
        return np.frombuffer(self._memory, dtype=dtype, count=count, offset=begin)
