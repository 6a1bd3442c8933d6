"""Permissions of folders for group and others, and secret files."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(path: Path) -> bool:
    """Return whether every user may enter a folder and its parents."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


def close_to_others(path: Path) -> None:
    """Remove the permissions of group and others from our file, or from our folder and its content.

    Files with several links stay: they belong to the folder that a base was added from.
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
    """Return the secret in a file, created if missing; two concurrent creators get the same."""
    if not file.exists():
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "w") as written:
            written.write(f"{prefix}{secrets.token_urlsafe(32)}\n")
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # another process created it
            os.link(temporary, file)  # atomic: no process reads half of a secret
        Path(temporary).unlink(missing_ok=True)
    if file.stat().st_nlink > 1:  # left by a crash: a file with two links is never handed over
        for draft in file.parent.glob(f".{file.name}.*"):
            draft.unlink(missing_ok=True)
    return file.read_text().strip()
