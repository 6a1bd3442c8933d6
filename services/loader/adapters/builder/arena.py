"""One memory for all laid out adapters, which a GPU reads without an intermediate copy.

The loader creates and owns it; builders write to it, one after the other; each worker of the engine maps it
once and registers it with its device. An adapter that does not fit gets its own memory file.

Invariants: a range given to the loader stays the loader's until it is released, whichever builder gave it;
a range that a dead builder had not given is free for the next one.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from services.loader.core.arena import Arena


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
