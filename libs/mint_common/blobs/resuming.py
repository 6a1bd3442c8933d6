"""Downloads that resume after an interruption.

Invariants: the file at the target is checked as a whole, or absent; a partial file is named by the blob's
sha256, so it can be resumed from any source of the same bytes; one download at a time writes to a partial
file, and a concurrent one does not use it.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mint_common.blobs.checked import CHUNK_BYTES, Check
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import BlobCorrupt

RANGE_BYTES = 8 << 20
"""Bytes requested at a time, and the maximum held in memory. A smaller part is not worth resuming."""

MAX_PARTIALS = 16
"""Maximum number of broken downloads on disk; the oldest are removed first."""


class ResumingBlobs:
    """The read methods of a blob store, with a `fetch` that resumes."""

    def __init__(self, blobs: Blobs, *, partials: Path, range_bytes: int = RANGE_BYTES) -> None:
        self._blobs = blobs
        self._partials = partials
        self._range_bytes = range_bytes

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        return await self._blobs.get(claim)

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Write the claimed bytes to a file, checked and atomically, resuming an earlier partial download.

        The file and the partial files must be on one file system.
        """
        if claim.size_bytes <= self._range_bytes:
            await self._blobs.fetch(claim, path)
            return
        partial = self._partials / claim.sha256
        async with _taken(partial) as file:
            if file is None:
                await self._blobs.fetch(claim, path)
                return
            try:
                await self._complete(claim, file)
            except BlobCorrupt:
                await asyncio.to_thread(partial.unlink)
                raise
            await asyncio.to_thread(_land, partial, path)

    async def bound_partials(self, max_bytes: int, *, spared: int = 0) -> int:
        """Remove what broken downloads left, the oldest first, until it takes no more; return how much went.

        The ``spared`` newest and those that are written to now stay.
        """
        return await asyncio.to_thread(_bound, self._partials, max_bytes, spared)

    async def _complete(self, claim: Claim, file: BinaryIO) -> None:
        check = Check(claim)
        kept = await asyncio.to_thread(_reread, file, check, claim.size_bytes)
        try:
            await self._append(claim, file, check, start=kept)
        except BlobCorrupt:
            if not kept:
                raise
            # A power loss may have left other bytes here than were written.
            await asyncio.to_thread(file.truncate, 0)
            await asyncio.to_thread(file.seek, 0)
            await self._append(claim, file, Check(claim), start=0)

    async def _append(self, claim: Claim, file: BinaryIO, check: Check, *, start: int) -> None:
        while start < claim.size_bytes:
            size = min(self._range_bytes, claim.size_bytes - start)
            data = await self._blobs.get_range(claim, start=start, size=size)
            await asyncio.to_thread(_write, file, check, data)
            start += size
        check.finish()


@asynccontextmanager
async def _taken(partial: Path) -> AsyncIterator[BinaryIO | None]:
    """Open a partial file for this download alone; None when another has it."""
    file = await asyncio.to_thread(_take, partial)
    try:
        yield file
    finally:
        if file is not None:
            file.close()


def _take(partial: Path) -> BinaryIO | None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, partial):
            os.utime(file.fileno())
            _trim(partial.parent)
            return file
    except BlockingIOError:
        pass
    file.close()
    return None


def _is_at(file: BinaryIO, partial: Path) -> bool:
    """Return whether the file is there still: who held the lock before may have moved it to its target."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), partial.stat())
    except FileNotFoundError:
        return False


def _reread(file: BinaryIO, check: Check, most: int) -> int:
    """Feed the partial file to the check; return its size."""
    if os.fstat(file.fileno()).st_size > most:
        file.truncate(0)
    while chunk := file.read(CHUNK_BYTES):
        check.update(chunk)
    return file.tell()


def _write(file: BinaryIO, check: Check, data: bytes) -> None:
    check.update(data)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _land(partial: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)


def _bound(partials: Path, max_bytes: int, spared: int) -> int:
    removed = 0
    with suppress(FileNotFoundError):
        found = sorted(partials.iterdir(), key=lambda path: path.stat().st_mtime)
        left = sum(path.stat().st_size for path in found)
        for path in found[: len(found) - spared]:
            if left <= max_bytes:
                break
            size_bytes = _remove_unused(path)
            left, removed = left - size_bytes, removed + size_bytes
    return removed


def _remove_unused(partial: Path) -> int:
    """Remove a partial file unless a download has it; return its size."""
    with partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        partial.unlink()
        return os.fstat(file.fileno()).st_size


def _trim(partials: Path) -> None:
    """Remove the partial files that were unused for longest."""
    with suppress(FileNotFoundError):
        found = sorted(partials.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in found[:-MAX_PARTIALS]:
            path.unlink()
