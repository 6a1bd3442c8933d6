"""Ends process sessions; also runs as the sentinel that ends them when the supervisor has died.

Each part of a stack leads a session, so that its children (an engine core, a data loader) can be found by the
session's id after the leader has died. Standard library only: the sentinel runs as ``python -I -S
sessions.py`` in a few megabytes and must survive all other failures.
"""

import os
import signal
import sys
import time
from pathlib import Path

SWEEP_SECONDS = 5.0


def session_members(sessions: set[int]) -> dict[int, int]:
    """Return the live processes of some sessions: process id -> session id. Zombies do not count."""
    members: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text()
        except OSError:
            continue
        state, _parent, _group, session = text.rpartition(")")[2].split()[:4]
        if state not in "ZX" and int(session) in sessions:
            members[int(entry.name)] = int(session)
    return members


def kill_sessions(sessions: set[int]) -> bool:
    """Send SIGKILL to all processes of some sessions until none is left; return whether none is."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while members := session_members(sessions):
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def stand_guard() -> None:
    """Read ``+<session>`` and ``-<session>`` lines until the pipe closes, then end the remaining sessions."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    sessions: set[int] = set()
    for line in sys.stdin:
        session = int(line[1:])
        if line[0] == "+":
            sessions.add(session)
        else:
            sessions.discard(session)
    kill_sessions(sessions)


if __name__ == "__main__":
    stand_guard()
