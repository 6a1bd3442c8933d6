"""Reconciling the catalog with the blob store: what is not there, or not what it was, is never served.

Two walks, each resumed where it stopped: over all revisions, whose bytes are read in full, and over the
folders of the store, of which those that no revision names are noted. It marks, tells and notes; it removes
nothing (see `collector`). Invariant: a store that does not answer changes nothing.
"""

import hashlib
import logging

from mint_common.adapters_format import fetch_manifest
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import AdapterInvalid, BlobCorrupt, BlobMissing, InvalidField, Unavailable
from mint_common.events.revision import Fault
from mint_common.runtime.clock import Clock
from mint_common.waiting import raise_if_cancelled
from services.registry import metrics
from services.registry.core.custody import ROOTS, Held, folders_of
from services.registry.ports import Custody

CHUNK_BYTES = 4 << 20
LEAST_BYTES = 1 << 20
"""What a small adapter counts for: so many of them are read no faster than their requests allow."""
BATCH = 20
PASS_SECONDS = 3600.0
"""From the start of a pass over all revisions to that of the next one, at least."""
STEP_SECONDS = 10.0
"""How often lost revisions are looked at again while there is nothing else to do."""
ROOT_SECONDS = 86_400.0 / len(ROOTS)
"""How often a part of the store is listed: all of it once a day."""

_log = logging.getLogger(__name__)
_REVISIONS, _FOLDERS = "revisions", "folders"


class Reconciler:
    """Compares rows with bytes, at most ``bytes_per_second`` of them."""

    def __init__(self, *, custody: Custody, blobs: Blobs, clock: Clock, bytes_per_second: int) -> None:
        self._custody = custody
        self._blobs = blobs
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._lost_place = ""
        self._pass_at = clock.monotonic()
        self._root_at = clock.monotonic()

    async def run(self) -> None:
        """Reconcile until cancelled; of several registries one does it."""
        while True:
            try:
                async with self._custody.turn("reconcile") as is_ours:
                    while is_ours:
                        await self._step()
            except Unavailable as error:
                raise_if_cancelled()
                _log.warning("reconciling interrupted", extra={"problem": str(error)})
            await self._clock.sleep(STEP_SECONDS)

    async def _step(self) -> None:
        await self.look_at_lost()
        now = self._clock.monotonic()
        if now >= self._root_at:
            await self.note_next_root()
            self._root_at = now + ROOT_SECONDS
        if now >= self._pass_at:
            if await self.check_next():
                return
            self._pass_at = now + PASS_SECONDS
        await self._clock.sleep(STEP_SECONDS)

    async def look_at_lost(self) -> None:
        """Look again at some revisions whose bytes were missing or wrong: they may be back."""
        batch = await self._custody.lost(after=self._lost_place, limit=BATCH)
        for held in batch:
            await self._check(held)
        self._lost_place = batch[-1].place if batch else ""

    async def check_next(self) -> bool:
        """Read the next revisions in full; False at the end of a pass, and the next one is from the start."""
        batch = await self._custody.held(after=await self._custody.place(_REVISIONS), limit=BATCH)
        for held in batch:
            await self._check(held)
        await self._custody.keep_place(_REVISIONS, batch[-1].place if batch else "")
        return bool(batch)

    async def note_next_root(self) -> str:
        """Note the garbage in the next part of the store; return which part."""
        last = await self._custody.place(_FOLDERS)
        root = ROOTS[(ROOTS.index(last) + 1) % len(ROOTS)] if last in ROOTS else ROOTS[0]
        folders = folders_of([key async for key in self._blobs.list(root)])
        await self._custody.note_folders(root, folders, now=self._clock.now())
        await self._custody.keep_place(_FOLDERS, root)
        return root

    async def _check(self, held: Held) -> None:
        fault, problem = await self._fault(held)
        if fault != held.fault and await self._custody.mark(held, fault, problem):
            facts = {"policy_id": held.policy_id, "number": held.number, "digest": held.digest}
            if fault is None:
                _log.info("revision healed", extra=facts)
            else:
                metrics.FAULTS.labels(fault).inc()
                _log.error("revision lost", extra={**facts, "fault": fault, "problem": problem})

    async def _fault(self, held: Held) -> tuple[Fault | None, str]:
        try:
            manifest = await fetch_manifest(self._blobs, held.manifest)
            if manifest.digest != held.digest:
                return "wrong", f"the manifest says {manifest.digest}"
            folder = held.manifest.uri.rpartition("/")[0]
            for name, proof in manifest.files.items():
                uri = f"{folder}/{name}"
                await self._read(Claim(uri=uri, sha256=proof.sha256, size_bytes=proof.size_bytes))
            await self._pace(LEAST_BYTES)
        except BlobMissing as error:
            return "missing", str(error)
        except (AdapterInvalid, BlobCorrupt, InvalidField) as error:
            return "wrong", str(error)
        return None, ""

    async def _read(self, claim: Claim) -> None:
        """Read a blob as its claim says, a part at a time. Raises BlobMissing, BlobCorrupt."""
        read = hashlib.sha256()
        for start in range(0, claim.size_bytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, claim.size_bytes - start)
            read.update(await self._blobs.get_range(claim, start=start, size=size))
            metrics.RECONCILED_BYTES.inc(size)
            await self._pace(size)
        if read.hexdigest() != claim.sha256:
            raise BlobCorrupt(uri=claim.uri, expected=f"sha256 {claim.sha256}", found=read.hexdigest())

    async def _pace(self, size: int) -> None:
        await self._clock.sleep(size / self._bytes_per_second)
