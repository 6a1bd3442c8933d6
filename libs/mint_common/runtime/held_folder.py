"""A local folder for the files of one process, which holds it by a lock.

Invariant: what a killed process left is removed by the next one of its kind that starts on the machine.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_LOCK = "lock"


class HeldFolder:
    """A folder and its lock. Made by `hold_folder`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def remove(self) -> None:
        """Remove the folder with all that it has."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def hold_folder(prefix: str, parent: Path | None = None) -> HeldFolder:
    """Make a folder for this process, and remove those of the same prefix whose processes were killed."""
    parent = parent or Path(tempfile.gettempdir())
    for folder in parent.glob(f"{prefix}*"):
        _remove_abandoned(folder)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return HeldFolder(path, lock)


def _remove_abandoned(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    with suppress(OSError):  # one without a lock is a moment old; a locked one is somebody's
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
