"""The marker of a blob store: distinguishes a missing blob from a wrong or unmounted store.

A volume that is not mounted, or a wrong bucket, looks like a store without blobs. So the registry, the only
service that can compare a store with the catalog, writes a marker with an id; a process that misses a
blob checks the marker first.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, BlobMissing, Unavailable
from mint_common.ids import new_id

KEY = "mint-store"
"""No other blob has such a key."""
LOOK_SECONDS = 10.0
"""Maximum age of the last check of the marker when a blob is stored."""

_STORE = "the blob store"
_NO_MARKER = f"it has no {KEY}: the volume is not mounted, or the folder or bucket is another one"
_LENGTH = len(new_id("store"))

T = TypeVar("T")


async def store_id(blobs: Blobs) -> str | None:
    """Return the id of a store, None when it has no marker. Raises Unavailable."""
    claim = Claim(uri=KEY, sha256="", size_bytes=_LENGTH)
    try:
        return (await blobs.get_range(claim, start=0, size=_LENGTH)).decode()
    except BlobMissing:
        return None


async def mark(blobs: Blobs, known: str = "") -> str:
    """Return the id of a store, which gets a marker if it has none: of its known id, or of a new one.

    Raises Unavailable.
    """
    while (found := await store_id(blobs)) is None:
        try:
            await blobs.put_new(KEY, (known or new_id("store")).encode())
        except AlreadyExists:
            continue  # another process was quicker
    return found


def bare(blobs: Blobs) -> Blobs:
    """Return the store itself, which says that a blob is missing whether it has a marker or not."""
    return blobs.store if isinstance(blobs, MarkedBlobs) else blobs


class MarkedBlobs:
    """A blob store that reports a blob as missing only while its marker exists; see `Blobs`.

    A store whose marker was seen and is gone refuses new blobs, which the mounted volume would hide. A store
    without a marker so far accepts them, and never reports one as missing.
    """

    def __init__(self, blobs: Blobs, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.store = blobs
        self._monotonic = monotonic
        self._id: str | None = None
        self._looked_at = float("-inf")

    async def put(self, key: str, data: bytes) -> Claim:
        """Store bytes, replacing an existing blob."""
        await self._look()
        return await self.store.put(key, data)

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key."""
        if key != KEY:
            await self._look()
        return await self.store.put_new(key, data)

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store a file's bytes under a free key."""
        await self._look()
        return await self.store.put_file(key, path)

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        return await self._believed(self.store.get(claim), claim.uri)

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Return a part of the claimed bytes."""
        return await self._believed(self.store.get_range(claim, start=start, size=size), claim.uri)

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Write the claimed bytes to a local file."""
        await self._believed(self.store.fetch(claim, path), claim.uri)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self.store.delete(key)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix, without the marker's."""
        async for key in self.store.list(prefix):
            if key != KEY:
                yield key

    async def close(self) -> None:
        """Release connections."""
        await self.store.close()

    async def _believed(self, read: Awaitable[T], key: str) -> T:
        try:
            return await read
        except BlobMissing as error:
            if key != KEY and await self._same() is None:
                raise Unavailable(what=_STORE, problem=_NO_MARKER) from error
            raise

    async def _look(self) -> None:
        """Look from time to time whether a store that was marked still is."""
        if self._monotonic() - self._looked_at < LOOK_SECONDS:
            return
        if await self._same() is None and self._id is not None:
            raise Unavailable(what=_STORE, problem=_NO_MARKER)
        self._looked_at = self._monotonic()

    async def _same(self) -> str | None:
        """Return the id of the store if it has not changed."""
        found = await store_id(self.store)
        if found is not None and self._id is not None and found != self._id:
            problem = f"its {KEY} says {found}, and said {self._id} before"
            raise Unavailable(what=_STORE, problem=problem)
        self._id = self._id or found
        return found
