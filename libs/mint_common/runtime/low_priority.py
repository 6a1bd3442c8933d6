"""The priority of processes and threads that work in the background. Imports little: some processes do."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from mint_common.runtime.processor_turns import take_batch_turns

NICENESS = 5
"""Relative to the process's: a quarter of a processor's time while anybody else wants it."""
MAX_NICENESS = 19

_AUTOGROUP = Path("/proc/self/autogroup")
"""Niceness of the session's autogroup. Where Linux shares processors by session, a process's niceness
counts within its session only."""

_TRIES, _PAUSE_SECONDS = 10, 0.11
"""Linux takes one change each 0.1 s from processes without CAP_SYS_ADMIN; several may start at once."""


def make_way() -> None:
    """Give way to every other process. This one leads a session of its own, or its session gives way, too."""
    os.nice(NICENESS)
    take_batch_turns()
    _set_session_niceness(NICENESS)


def let_session_give_way(niceness: int) -> None:
    """Give way to other sessions, where Linux shares processors by session, if this process leads one."""
    if os.getsid(0) == os.getpid():
        _set_session_niceness(niceness)


def let_thread_give_way(niceness: int) -> None:
    """Have this thread, and those that it starts, give way to the others of the process, and of others."""
    of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(MAX_NICENESS, of_process + niceness))


def _set_session_niceness(niceness: int) -> None:
    with suppress(OSError):  # in no autogroup: then niceness counts between all processes
        for _ in range(_TRIES):
            try:
                _AUTOGROUP.write_text(str(niceness))
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            else:
                return
