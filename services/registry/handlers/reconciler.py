"""Reconciliation of the catalog with the blob store: revisions with missing or wrong bytes are not served.

Two walks, each resumed from its saved position: one reads the bytes of all revisions, the other lists the
folders of the store and records those that no revision names. Nothing is removed here (see `collector`).
Invariants: a store that does not answer, or is not the catalog's, changes nothing. Losses are marked no
faster than they heal, and no more than `MAX_LOST` in a pass.
"""

import logging

from mint_common.adapters_format import fetch_manifest
from mint_common.blobs.checked import read_parts
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import AdapterInvalid, BlobCorrupt, BlobMissing, InvalidField, Unavailable
from mint_common.events.revision import Fault
from mint_common.runtime.clock import Clock
from mint_common.waiting import raise_if_cancelled
from services.registry import metrics
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.core.blob_integrity import ROOTS, StoredRevision, folders_of
from services.registry.handlers.store_identity import StoreIdentity

MIN_BYTES = 1 << 20
"""Minimum size that an adapter is counted with, so that the rate of requests is limited too."""
BATCH = 20
PASS_SECONDS = 3600.0
"""Shortest time between the starts of two passes over all revisions."""
STEP_SECONDS = 10.0
"""Interval between checks of lost revisions within a pass."""
MAX_LOST = 1000
"""Revisions that a pass marks as lost. More of them at once is a fault of the store that people look at: the
next pass goes on."""
ROOT_SECONDS = 86_400.0 / len(ROOTS)
"""Time between the listings of two roots; all are listed once a day."""

_log = logging.getLogger(__name__)
_REVISIONS, _FOLDERS = "revisions", "folders"


class Reconciler:
    """Compares rows with stored bytes, reading at most ``bytes_per_second``."""

    def __init__(
        self, *, integrity: PostgresBlobIntegrity, blobs: Blobs, clock: Clock, bytes_per_second: int
    ) -> None:
        self._integrity = integrity
        self._blobs = blobs
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._identity = StoreIdentity(integrity=integrity, blobs=blobs)
        self._lost_in_pass = 0
        self._lost_position = ""
        self._pass_at = clock.monotonic()
        self._root_at = clock.monotonic()

    async def run(self) -> None:
        """Reconcile until cancelled; one of several registries does it."""
        while True:
            try:
                async with self._integrity.exclusive("reconcile") as is_owner:
                    while is_owner:
                        await self._step()
            except Unavailable as error:
                raise_if_cancelled()
                _log.warning("reconciling interrupted", extra={"problem": str(error)})
            await self._clock.sleep(STEP_SECONDS)

    async def _step(self) -> None:
        await self._identity.confirm()
        await self.check_lost()
        now = self._clock.monotonic()
        if now >= self._root_at:
            await self.record_next_root()
            self._root_at = now + ROOT_SECONDS
        if now >= self._pass_at:
            if await self.check_next():
                return
            self._pass_at, self._lost_in_pass = now + PASS_SECONDS, 0
        await self._clock.sleep(STEP_SECONDS)

    async def check_lost(self) -> None:
        """Check some lost revisions again, whose bytes may have been restored."""
        batch = await self._integrity.lost(after=self._lost_position, limit=BATCH)
        for revision in batch:
            await self._check(revision)
        self._lost_position = batch[-1].position if batch else ""

    async def check_next(self) -> bool:
        """Check the next revisions; False at the end of a pass.

        The next pass starts again, or continues where `MAX_LOST` ended this one.
        """
        if self._lost_in_pass >= MAX_LOST:
            _log.error("too many revisions lost: reconciling rests", extra={"lost": self._lost_in_pass})
            return False
        batch = await self._integrity.stored(after=await self._integrity.position(_REVISIONS), limit=BATCH)
        for revision in batch:
            await self._check(revision)
        await self._integrity.save_position(_REVISIONS, batch[-1].position if batch else "")
        return bool(batch)

    async def record_next_root(self) -> str:
        """Record the garbage under the next root and return the root."""
        last = await self._integrity.position(_FOLDERS)
        root = ROOTS[(ROOTS.index(last) + 1) % len(ROOTS)] if last in ROOTS else ROOTS[0]
        folders = folders_of([key async for key in self._blobs.list(root)])
        await self._integrity.record_folders(root, folders, now=self._clock.now())
        await self._integrity.save_position(_FOLDERS, root)
        return root

    async def _check(self, revision: StoredRevision) -> None:
        fault, problem = await self._fault(revision)
        if fault != revision.fault and await self._integrity.mark(revision, fault, problem):
            facts = {"policy_id": revision.policy_id, "number": revision.number, "digest": revision.digest}
            if fault is None:
                _log.info("revision healed", extra=facts)
            else:
                self._lost_in_pass += 1
                metrics.FAULTS.labels(fault).inc()
                _log.error("revision lost", extra={**facts, "fault": fault, "problem": problem})

    async def _fault(self, revision: StoredRevision) -> tuple[Fault | None, str]:
        try:
            manifest = await fetch_manifest(self._blobs, revision.manifest)
            if manifest.digest != revision.digest:
                return "wrong", f"the manifest says {manifest.digest}"
            folder = revision.manifest.uri.rpartition("/")[0]
            for name, proof in manifest.files.items():
                uri = f"{folder}/{name}"
                await self._read(Claim(uri=uri, sha256=proof.sha256, size_bytes=proof.size_bytes))
            await self._throttle(MIN_BYTES)
        except BlobMissing as error:
            await self._identity.confirm()
            await self._throttle(MIN_BYTES)
            return "missing", str(error)
        except AdapterInvalid as error:
            # Its bytes are those that were published: a newer version of this service reads them.
            _log.warning("manifest not read", extra={"digest": revision.digest, "problem": str(error)})
            return revision.fault, ""
        except (BlobCorrupt, InvalidField) as error:
            return "wrong", str(error)
        return None, ""

    async def _read(self, claim: Claim) -> None:
        """Compare a blob with its claim. Raises BlobMissing, BlobCorrupt."""
        async for part in read_parts(self._blobs, claim):
            metrics.RECONCILED_BYTES.inc(len(part))
            await self._throttle(len(part))

    async def _throttle(self, size: int) -> None:
        await self._clock.sleep(size / self._bytes_per_second)
