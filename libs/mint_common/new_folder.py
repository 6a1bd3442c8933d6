"""A folder that is there whole, or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mint_common.errors import AlreadyExists


@contextmanager
def new_folder(target: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Yield an empty folder beside the target, which takes its place only if the body succeeds.

    Makes missing folders above it. ``mode`` is limited by the umask. Raises AlreadyExists.
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
