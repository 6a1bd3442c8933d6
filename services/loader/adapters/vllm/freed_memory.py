"""Return memory used by structures of answers to the system once the engine is idle.

glibc retains freed blocks between used ones: 128 sequences of an ambiguous grammar left an engine
0.7 GB larger. Trimming takes some 60 ms, in which allocations wait.
"""

import ctypes
import threading
from collections.abc import Callable

_IDLE_SECONDS = 1.0
_EVERY_SECONDS = 60.0


class FreedMemory:
    """Memory freed by an engine's structures."""

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self._is_idle = is_idle
        self._is_due = False
        self._given_back_at = float("-inf")

    def note_structure(self) -> None:
        """Note that a structure is followed."""
        self._is_due = True

    def note_step(self, now: float) -> None:
        """Give memory back soon, if the step was the last one for now and structures were followed."""
        if self._is_due and self._is_idle() and now - self._given_back_at > _EVERY_SECONDS:
            self._is_due, self._given_back_at = False, now
            timer = threading.Timer(_IDLE_SECONDS, self._give_back_if_idle)
            timer.daemon = True
            timer.start()

    def _give_back_if_idle(self) -> None:
        if self._is_idle():
            give_back()
        else:
            self._is_due, self._given_back_at = True, float("-inf")


def give_back() -> None:
    """Return freed memory to the system, where the C library knows how to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
