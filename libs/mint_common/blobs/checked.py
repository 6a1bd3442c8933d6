"""Reads and writes of blobs: bytes are counted and hashed as they stream; written ones show all or none."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import BlobCorrupt, InvalidField

CHUNK_BYTES = 1 << 20
PART_BYTES = 4 << 20


def claim_of(key: str, data: bytes) -> Claim:
    """Return the claim of some bytes under a key."""
    return Claim(uri=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def claim_of_file(key: str, path: Path) -> Claim:
    """Return the claim of a file's bytes under a key."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Claim(uri=key, sha256=sha256, size_bytes=file.tell())


class Check:
    """Compares bytes with their claim as they pass. Raises BlobCorrupt as soon as they cannot match."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._hash = hashlib.sha256()
        self._size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._hash.update(chunk)
        self._size += len(chunk)
        if self._size > self._claim.size_bytes:
            self._refuse(f"{self._claim.size_bytes} bytes", f"at least {self._size}")

    def finish(self) -> None:
        """Check the end of the bytes."""
        if self._size != self._claim.size_bytes:
            self._refuse(f"{self._claim.size_bytes} bytes", str(self._size))
        found = self._hash.hexdigest()
        if found != self._claim.sha256:
            self._refuse(f"sha256 {self._claim.sha256}", found)

    def _refuse(self, expected: str, found: str) -> None:
        raise BlobCorrupt(uri=self._claim.uri, expected=expected, found=found)


async def read_parts(blobs: Blobs, claim: Claim) -> AsyncIterator[bytes]:
    """Yield the claimed bytes in parts, checked at the end. Raises BlobMissing, BlobCorrupt."""
    check = Check(claim)
    for start in range(0, claim.size_bytes, PART_BYTES):
        size = min(PART_BYTES, claim.size_bytes - start)
        part = await blobs.get_range(claim, start=start, size=size)
        check.update(part)
        yield part
    check.finish()


def check_range(claim: Claim, *, start: int, size: int) -> None:
    """Raise InvalidField unless a range has bytes, all of them within the claim."""
    if not (start >= 0 and size > 0 and start + size <= claim.size_bytes):
        problem = f"{size} bytes from {start} are not within {claim.size_bytes}"
        raise InvalidField(field="range", problem=problem)


def check_size(claim: Claim, found: int) -> None:
    """Raise BlobCorrupt when the whole has another size than claimed."""
    if found != claim.size_bytes:
        raise BlobCorrupt(uri=claim.uri, expected=f"{claim.size_bytes} bytes", found=str(found))


@contextmanager
def landing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at the path only if the body succeeds. Creates missing folders.

    Not synced: the file is a copy of a blob, and a power loss may corrupt it. Readers that store it check it
    again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name[:150]}~{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@asynccontextmanager
async def landing_in_thread(path: Path) -> AsyncIterator[BinaryIO]:
    """Do what `landing` does with its file work in a thread."""
    manager = landing(path)
    file = await asyncio.to_thread(manager.__enter__)
    try:
        yield file
    except BaseException as error:
        await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(manager.__exit__, None, None, None)
