"""Folders that are there whole or not at all, and folders for a while."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
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


@asynccontextmanager
async def scratch_folder(prefix: str) -> AsyncIterator[Path]:
    """Yield an empty folder of the system's temporary ones, which is removed at the end of the body."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=prefix))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
