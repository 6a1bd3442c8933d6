"""The state folder of a stack: paths, secrets, saved state, and the lock against a second stack.

state.json  chosen ports, bases          api_key         the bootstrap API key (0600)
run.json    parts of the running stack   internal_token  what services show each other (0600)
lock        pid of the supervisor        log/            one file per part
bases/      base models                  blobs/          adapters, rollout records
postgres/   nats/                        cache/          staged adapters
envs/       installed environments

Everything is the owner's alone: folders 0700, files 0600. When root starts the stack, the folder's group is
the id that Postgres and NATS run as, which may pass the folder (0710) and owns theirs.
"""

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from mint_client.adapters.stack_folder import StackFolder, pid_in, try_lock
from mint_client.core.state import RunNow, decode_state
from mint_common.new_folder import replace_file
from services.standalone.adapters.file_modes import OTHERS, close_to_others, secret_in
from services.standalone.core.plan import StackSecrets
from services.standalone.core.refusals import FolderUnusableError, StackRunningError
from services.standalone.core.state import StackState, encode_state

ORPHANS_SECONDS = 15.0


class StateFolder(StackFolder):
    """Paths below one root, and the small files among them."""

    def __init__(self, *, root: Path) -> None:
        super().__init__(root=root)
        self.logs, self.bases = root / "log", root / "bases"
        self.blobs, self.cache = root / "blobs", root / "cache"
        self.environments = root / "envs"

    def create(self) -> None:
        """Create the folder and the subfolders that `mint up` needs. Raises FolderUnusableError."""
        for folder in (self.root, self.logs, self.bases, self.blobs, self.cache):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise FolderUnusableError(folder=str(self.root), problem=_problem(error)) from error

    def filesystem(self) -> str:
        """Return the type of the filesystem of the folder, "" if the system does not say."""
        place = self.root.absolute()
        mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
        return next((mounts[each] for each in (place, *place.parents) if each in mounts), "")

    def why_unusable(self) -> str:
        """Return why the folder is not writable, or ""; the file of the test is removed at once."""
        place = next(each for each in (self.root, *self.root.parents) if each.exists())
        try:
            with tempfile.TemporaryDirectory(prefix=".mint-", dir=place):
                return ""
        except OSError as error:
            return f"{place}: {_problem(error)}"

    def close_to_others(self) -> None:
        """Remove the permissions of others from a folder of an earlier version; the folder itself comes last.

        Other files of the user are protected by the folder only.
        """
        mode = stat.S_IMODE(self.root.stat().st_mode)
        allowed = stat.S_IXGRP if os.geteuid() == 0 else 0
        if not mode & OTHERS & ~allowed:
            return
        for path in self.root.iterdir():
            if path.name in (*_FILES, *_FOLDERS):
                close_to_others(path)
        with contextlib.suppress(PermissionError):  # another user's folder, such as a volume's
            self.root.chmod(mode & ~OTHERS)

    def secrets(self) -> StackSecrets:
        """Read the secrets and create missing ones; only the owner can read their files."""
        return StackSecrets(
            internal_token=secret_in(self.root / "internal_token"),
            api_key=secret_in(self.api_key_file, prefix="tml-"),
        )

    def read_state(self) -> StackState:
        """Return the saved state of earlier starts. Raises InvalidField for a broken file."""
        file = self.root / "state.json"
        if not file.exists():
            return StackState()
        return decode_state(file.read_bytes(), StackState, file=str(file))

    def write_state(self, state: StackState) -> None:
        """Save ports and bases."""
        replace_file(self.root / "state.json", encode_state(state))

    def write_run(self, run: RunNow) -> None:
        """Write the description of the running stack."""
        replace_file(self.run_file, encode_state(run))

    @contextlib.contextmanager
    def taken(self) -> Iterator[int]:
        """Hold the folder for this process and yield the lock's descriptor.

        Makes the folder if needed, and closes it to others. A process that inherits the descriptor holds the
        lock too. Raises StackRunningError. Waits for the orphans of a killed supervisor.
        """
        self.create()
        descriptor = self._lock()
        try:
            self.close_to_others()
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self) -> int:
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + ORPHANS_SECONDS
        while not try_lock(descriptor):
            pid = pid_in(os.pread(descriptor, 32, 0).decode())
            if _is_alive(pid) or time.monotonic() > deadline:
                os.close(descriptor)
                raise StackRunningError(folder=str(self.root), pid=pid)
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


_FILES = ("state.json", "run.json", "lock", "api_key", "internal_token")
_FOLDERS = ("log", "bases", "blobs", "postgres", "nats", "cache")


def _problem(error: OSError) -> str:
    return "it is a file" if isinstance(error, FileExistsError | NotADirectoryError) else str(error.strerror)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    return False
