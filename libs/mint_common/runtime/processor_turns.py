"""Scheduler time slices of this process or a thread.

Linux schedules in slices of about 3 ms. A process that wakes to answer a request waits for the slice of the
running one; a process with short slices preempts the others, and its share stays the same. Longer slices for
the others would only make those wait longer whose share is used up.
Kernels before 6.12 and other systems do not support this: then nothing changes.

Threads and children inherit the setting of the thread that starts them, so set it before there are any.

Python's own threads take turns of 5 ms, and one that reads a request, or sends an answer, beside a busy
thread waits for several.
"""

import ctypes
import os
import platform
import struct
import sys

_SHORT_SECONDS = 0.0003
_ORDINARY_SECONDS = 0.0
_SCHED_OTHER, _SCHED_BATCH = 0, 3
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}
"""The number of the system call, which no library has a name for."""

_ATTRIBUTES = struct.Struct("<IIQiIQQQ")
"""Size, policy, flags, niceness, priority, runtime, deadline, period."""


def take_short_turns() -> bool:
    """Ask for short latency, for processes that answer requests; return whether the system supports it."""
    shorten_thread_turns()
    return _ask(_SCHED_OTHER, _SHORT_SECONDS)


def shorten_thread_turns() -> None:
    """Let this process's threads wait less for the interpreter; a child does not inherit it."""
    sys.setswitchinterval(_SHORT_SECONDS)


def take_batch_turns() -> bool:
    """Schedule this process as background work, which preempts no other process when it wakes.

    Return whether the system supports it.
    """
    return _ask(_SCHED_BATCH, _ORDINARY_SECONDS)


def _ask(policy: int, seconds: float) -> bool:
    number = _SET_ATTRIBUTES.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    wish = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, niceness, 0, int(seconds * 1e9), 0, 0)
    system_call = ctypes.CDLL(None).syscall
    return bool(system_call(number, 0, ctypes.c_char_p(wish), 0) == 0)
