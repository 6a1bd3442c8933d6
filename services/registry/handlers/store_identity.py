"""The identity of the catalog's blob store: only this store's reports of missing bytes count.

Invariant: a store that is down, or another one in its place, changes nothing.
"""

import asyncio
import logging
from dataclasses import dataclass

from mint_common.blobs.marker import KEY, bare, mark, store_id
from mint_common.blobs.port import Blobs
from mint_common.errors import BlobCorrupt, BlobMissing, Unavailable
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.core.blob_integrity import StoredRevision, is_majority

SAMPLE = 20
"""Revisions whose manifests are looked for before a store with another marker, or none, is taken for ours."""
START_SECONDS = 10.0
"""Time that a starting registry waits for the blob store; the catalog is served without it."""

_WALK = "store"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class StoreIdentity:
    """Compares the marker of the store with the one that the catalog remembers."""

    integrity: PostgresBlobIntegrity
    blobs: Blobs
    _is_known: bool = False

    async def confirm_first(self) -> None:
        """Do as `confirm` if this process has not done it: a store of an older version gets its marker."""
        if not self._is_known:
            await self.confirm()

    async def confirm(self) -> None:
        """Raise Unavailable unless this is the store of the catalog's bytes.

        The first time, and when a store was copied without its marker, a sample of the revisions decides. A
        store that has lost its marker gets the same one again, so that no process takes it for another store.
        """
        store = bare(self.blobs)
        found, known = await store_id(store), await self.integrity.position(_WALK)
        if found is not None and found == known:
            self._is_known = True
            return
        sample = await self.integrity.sound(limit=SAMPLE)
        present = [await self._is_there(revision) for revision in sample]
        is_ours = is_majority(present)
        if known and not sample:
            # No revision can tell. An empty mount point has no blobs at all; another store has a marker.
            is_ours = (
                found is None
                and await self._has_blobs()
                and not await self.integrity.stored(after="", limit=1)
            )
        if not is_ours:
            problem = f"{present.count(False)} of {len(present)} manifests are not in it, and its {KEY} is"
            remedy = f", not {known}" if known else ""
            raise Unavailable(what="the blob store", problem=f"{problem} {found or 'missing'}{remedy}")
        found = await mark(store, known)
        await self.integrity.save_position(_WALK, found)
        self._is_known = True
        _log.info("blob store known", extra={"store_id": found, "before": known})

    async def try_to_confirm(self) -> None:
        """Do as `confirm` before serving begins; what needs the store asks again if it is away now."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.confirm()
        except (Unavailable, TimeoutError) as error:
            _log.warning("blob store not confirmed", extra={"problem": str(error)})

    async def _has_blobs(self) -> bool:
        async for _ in bare(self.blobs).list(""):
            return True
        return False

    async def _is_there(self, revision: StoredRevision) -> bool:
        try:
            await bare(self.blobs).get_range(revision.manifest, start=0, size=1)
        except BlobMissing:
            return False
        except BlobCorrupt:
            pass  # it is there
        return True
