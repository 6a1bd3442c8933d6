"""Folders that are there whole or not at all, and files that are replaced at once."""

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mint_common.errors import AlreadyExists


@contextlib.contextmanager
def new_folder(target: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Yield an empty folder beside the target, which replaces it only if the body succeeds.

    Creates missing parent folders. ``mode`` is limited by the umask. Raises AlreadyExists.
    """
    if target.exists():
        raise AlreadyExists(kind="folder", name=str(target))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        draft.mkdir(mode, parents=True)
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_file(file: Path, data: bytes) -> None:
    """Replace a file at once: readers see the old or the new text. Its mode stays; a new one is 0600."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(data)
    with contextlib.suppress(FileNotFoundError):
        temporary.chmod(stat.S_IMODE(file.stat().st_mode))
    temporary.replace(file)
