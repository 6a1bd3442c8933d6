"""What the process does with the memory that a step frees."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt(3)."""
_KEPT_BYTES = 1 << 30
_HEAP_BYTES = 32 << 20
"""The most that glibc takes; its own value rises up to there, but not once the other one is set."""


def keep_freed_memory() -> bool:
    """Keep up to a GiB of freed memory for the next step; return False where the C library has no such way.

    Else a step gives the memory of its activations back to the kernel, and the next one faults in every page
    of it anew: up to a sixth of a small step. Affects the whole process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = {_MMAP_THRESHOLD: _HEAP_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES}
    return all(mallopt(option, value) for option, value in options.items())
