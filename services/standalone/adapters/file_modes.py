"""Who may pass a folder, what group and others may do below it; and secrets."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(path: Path) -> bool:
    """Return whether every user may pass a folder and those above it."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def close_to_others(path: Path) -> None:
    """Take from group and others what is ours: a file, or a folder and all below it.

    A file with several links is left: it is a base's, and belongs to the folder that the base was added from.
    """
    if path.is_dir() and not path.is_symlink():
        for _, folders, files, descriptor in os.fwalk(path):
            for name in (*folders, *files):
                _close(name, descriptor)
    _close(str(path), None)


def _close(name: str, folder: int | None) -> None:
    entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
    is_file = stat.S_ISREG(entry.st_mode) and entry.st_nlink == 1
    if entry.st_uid == os.geteuid() and entry.st_mode & OTHERS and (is_file or stat.S_ISDIR(entry.st_mode)):
        os.chmod(name, stat.S_IMODE(entry.st_mode) & ~OTHERS, dir_fd=folder)


def secret_in(file: Path, *, prefix: str = "") -> str:
    """Return the secret of a file, made at first; two who make it at a time agree on one."""
    if not file.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "w") as written:
            written.write(f"{prefix}{secrets.token_urlsafe(32)}\n")
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another's is there
            os.link(temporary, file)  # whole or not at all: nobody reads half of a secret
        Path(temporary).unlink(missing_ok=True)
    if file.stat().st_nlink > 1:  # a crash came before the removal: a file with two links is given to nobody
        for draft in file.parent.glob(f".{file.name}.*"):
            draft.unlink(missing_ok=True)
    return file.read_text().strip()
