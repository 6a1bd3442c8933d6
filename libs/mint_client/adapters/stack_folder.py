"""The state folder of a stack on this machine: where its gateway is, and the key that it takes.

run.json  parts of the running stack    api_key  the bootstrap API key (0600)
lock      pid of the supervisor
"""

import fcntl
import os
from pathlib import Path

from mint_client.core.state import RunNow, decode_state


class StackFolder:
    """Reads a running stack's own description."""

    def __init__(self, *, root: Path) -> None:
        self.root = root
        self.api_key_file = root / "api_key"
        self.run_file = root / "run.json"
        self.lock_file = root / "lock"

    def read_run(self) -> RunNow | None:
        """Return the running stack as its supervisor described it last, if one runs."""
        if self.running_pid() is None or not self.run_file.exists():
            return None
        return decode_state(self.run_file.read_bytes(), RunNow, file=str(self.run_file))

    def api_key(self) -> str:
        """Return the key of a stack that has started. Raises OSError."""
        return self.api_key_file.read_text().strip()

    def tracking_file(self, part: str) -> Path:
        """Return where a part that records jobs at a tracker stores its progress."""
        return self.root / "track" / f"{part}.json"

    def free_bytes(self) -> int:
        """Return the free bytes of its disk; 0 when no file can be created. The folder may be missing."""
        room = os.statvfs(next(place for place in (self.root, *self.root.parents) if place.exists()))
        return 0 if room.f_files and not room.f_favail else room.f_bavail * room.f_frsize

    def running_pid(self) -> int | None:
        """Return the pid of the supervisor that holds the lock, or None when no process does."""
        try:
            lock = self.lock_file.open("r+")
        except (FileNotFoundError, NotADirectoryError):
            return None
        with lock:
            if try_lock(lock.fileno()):
                return None
            return pid_in(lock.read())


def try_lock(descriptor: int) -> bool:
    """Take a lock until the descriptor is closed; return False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pid_in(text: str) -> int:
    """Return the pid that a lock's text is, 0 for any other text."""
    return int(text) if text.strip().isdigit() else 0
