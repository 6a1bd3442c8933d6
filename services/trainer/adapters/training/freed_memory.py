"""What becomes of memory between two steps.

glibc gives big blocks back to the system as soon as they are freed, and a step frees and asks for the same
ones all the time: the system clears them anew, page by page. Here it keeps some. Other C libraries keep to
their own ways.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's ``mallopt``."""

KEPT_BYTES = 128 << 20
"""What a heap may hold unused."""
LARGEST_BYTES = 32 << 20
"""Blocks from here on are given back all the same: glibc takes no higher bound."""


def keep_freed_memory() -> bool:
    """Keep freed blocks of this process for the next ones; return whether the C library heard it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
