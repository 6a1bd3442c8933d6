"""A blob store in memory: for tests, and the reference of a store's behaviour."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from mint_common.blobs.checked import Check, check_range, check_size, claim_of, landing
from mint_common.blobs.port import check_key, check_prefix
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, BlobMissing


class MemoryBlobs:
    """Blobs in a dict of this process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> Claim:
        """Store bytes, replacing an existing blob."""
        check_key(key)
        self._blobs[key] = bytes(data)
        return claim_of(key, data)

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key."""
        check_key(key)
        if self._blobs.setdefault(key, bytes(data)) != data:
            raise AlreadyExists(kind="blob", name=key)
        return claim_of(key, data)

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store a file's bytes under a free key."""
        return await self.put_new(key, await asyncio.to_thread(path.read_bytes))

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        check_key(claim.uri)
        if claim.uri not in self._blobs:
            raise BlobMissing(uri=claim.uri)
        check = Check(claim)
        check.update(self._blobs[claim.uri])
        check.finish()
        return self._blobs[claim.uri]

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Return a part of the claimed bytes."""
        check_key(claim.uri)
        check_range(claim, start=start, size=size)
        if claim.uri not in self._blobs:
            raise BlobMissing(uri=claim.uri)
        check_size(claim, len(self._blobs[claim.uri]))
        return self._blobs[claim.uri][start : start + size]

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Write the claimed bytes to a file."""
        data = await self.get(claim)
        await asyncio.to_thread(_write, path, data)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        check_key(key)
        self._blobs.pop(key, None)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix."""
        check_prefix(prefix)
        for key in sorted(self._blobs):
            if key.startswith(prefix):
                yield key

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _write(path: Path, data: bytes) -> None:
    with landing(path) as file:
        file.write(data)
