"""One memory for all adapters that are laid out, which a GPU reads without a copy in between.

The loader makes it and keeps it; builders write to it, one after the other; each worker of the engine maps it
once and registers it with its device. An adapter that finds no room lies in a memory file of its own.

Invariants: a range that the loader was given is its own until it gives it back, whichever builder gave it;
what a builder that ended had not given yet is free for the next one.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from services.loader.core.arena import Arena


@contextmanager
def open_arena(size_bytes: int) -> Iterator[str]:
    """Keep a memory of that size within the block; yield a path that processes of this user open."""
    descriptor = os.memfd_create("mint-arena", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


class ArenaWriter:
    """A builder's side of it."""

    def __init__(self, path: str, *, taken: Iterable[tuple[int, int]]) -> None:
        """Map it; ``taken``: begin and size of the ranges that the loader has. Raises OSError."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._ranges = Arena(len(self._memory), taken=taken)

    def take(self, size_bytes: int) -> int | None:
        """Return where a range of that size begins, None when there is no room."""
        return self._ranges.take(size_bytes)

    def give_back(self, begin: int) -> None:
        """Free a range."""
        self._ranges.give_back(begin)

    def items(self, begin: int, *, count: int, dtype: np.dtype[np.generic]) -> np.ndarray:
        """Return a range as an array that writes to it."""
        return np.frombuffer(self._memory, dtype=dtype, count=count, offset=begin)
