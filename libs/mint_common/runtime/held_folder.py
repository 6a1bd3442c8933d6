"""A local folder for one process's files, protected by a lock.

Invariant: the next process of its kind on the machine removes what a killed one left.
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
    while True:
        made = _made(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
        if made is not None:
            return made


def _made(path: Path) -> HeldFolder | None:
    """Hold a new folder; None if another process took it for an abandoned one before it was locked."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat((path / _LOCK).stat(), os.fstat(lock)):
            return HeldFolder(path, lock)
    os.close(lock)
    return None


def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError):  # gone by now; or without a lock and a moment old; a locked one is somebody's
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
