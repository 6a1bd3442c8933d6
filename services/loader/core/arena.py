"""Allocation of places in one shared memory."""

from bisect import insort
from collections.abc import Iterable

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
