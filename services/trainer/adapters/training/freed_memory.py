"""Retain freed memory in the process between two steps.

glibc returns big blocks to the kernel as soon as they are freed. A step frees and allocates the same blocks
repeatedly, and the kernel zeroes them again, page by page. Other C libraries are unchanged.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's ``mallopt``."""

KEPT_BYTES = 128 << 20
"""Maximum unused bytes of a heap."""
MAX_BYTES = 32 << 20
"""Blocks from here on are given back all the same: glibc takes no higher bound."""


def keep_freed_memory() -> bool:
    """Reuse freed blocks in this process; return whether the C library supports it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, MAX_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def give_memory_back() -> None:
    """Return unused pages of the heap to the kernel, where the C library supports it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
