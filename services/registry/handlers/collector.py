"""Collection: retire revisions and remove bytes as `core.collection` plans, and remove recorded garbage.

Invariants: bytes are removed only after a committed row allows it; the next collection finishes an
interrupted removal; one registry collects at a time. A collection stops after a bounded time, and the next
one continues from its position.
"""

import logging
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.blobs.port import Blobs
from mint_common.catalog import CollectionItem, CollectionReport, PolicyRecord
from mint_common.errors import RevisionInUse, Unavailable
from mint_common.ids import Digest, PolicyId
from mint_common.runtime.clock import Clock
from services.registry import metrics
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.collection import plan_collection

POLICIES_AT_ONCE = 100
REMOVALS_PER_SECOND = 100.0
SECONDS = 10.0
"""Time limit for one collection to plan policies."""
_WALK = "collect"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Round:
    """The state of one collection: its parameters and results so far."""

    used: AbstractSet[Digest]
    is_dry: bool
    limit: int
    items: list[CollectionItem] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.items) >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Collects on request. Unused bytes stay for at least ``grace_seconds``."""

    catalog: PostgresCatalog
    integrity: PostgresBlobIntegrity
    blobs: Blobs
    clock: Clock
    grace_seconds: float

    async def collect(self, *, used: AbstractSet[Digest], dry_run: bool, limit: int) -> CollectionReport:
        """Retire or remove at most ``limit`` items; with ``dry_run`` only list them.

        ``used`` are the digests that engines and trainers hold. Raises Unavailable while another collection
        runs.
        """
        async with self.integrity.exclusive("collect") as is_owner:
            if not is_owner:
                raise Unavailable(what="the collector", problem="another collection is running")
            round_ = _Round(used=used, is_dry=dry_run, limit=limit)
            if not dry_run:
                await self._finish_removals()
            position = await self._collect_policies(round_)
            if not position:
                await self._collect_folders(round_)
            if not dry_run:
                await self.integrity.save_position(_WALK, position)
                await self._finish_removals()
            more = bool(position) or round_.is_full
            return CollectionReport(dry_run=dry_run, items=tuple(round_.items), more=more)

    async def _collect_policies(self, round_: _Round) -> str:
        """Return the position to continue from, "" when all policies are done."""
        done, ends_at = await self.integrity.position(_WALK), self.clock.monotonic() + SECONDS
        async for policy_id in self._candidates(done):
            policy, revisions = await self.integrity.revisions_of(policy_id)
            plan = plan_collection(
                revisions, round_.used, now=self.clock.now(), grace_seconds=self.grace_seconds
            )
            for number in plan.retire:
                await self._retire(round_, policy, number)
            for number in plan.collect:
                if not round_.is_full and (
                    round_.is_dry or await self.integrity.release_bytes(policy, number)
                ):
                    round_.items.append(_item("bytes", policy, number))
            if round_.is_full:
                return done  # this policy may have more
            done = policy_id
            if self.clock.monotonic() >= ends_at:
                return done
        return ""

    async def _retire(self, round_: _Round, policy: PolicyRecord, number: int) -> None:
        if round_.is_full:
            return
        if not round_.is_dry:
            try:
                await self.catalog.set_state(policy, number, "retired")
            except RevisionInUse:
                return  # an alias was moved to it since the plan
        round_.items.append(_item("revision", policy, number))

    async def _candidates(self, after: str) -> AsyncIterator[PolicyId]:
        while page := await self.integrity.candidates(after=after, limit=POLICIES_AT_ONCE):
            for policy_id in page:
                yield policy_id
            after = page[-1]

    async def _collect_folders(self, round_: _Round) -> None:
        before = self.clock.now() - self.grace_seconds
        room = round_.limit - len(round_.items)
        for folder in await self.integrity.garbage(before=before, limit=room) if room else ():
            if round_.is_dry or await self.integrity.release_folder(folder):
                round_.items.append(
                    CollectionItem(kind="folder", what=folder.prefix, policy_id=folder.policy_id)
                )

    async def _finish_removals(self) -> None:
        while prefixes := await self.integrity.folders_to_remove(limit=POLICIES_AT_ONCE):
            for prefix in prefixes:
                await self._remove(prefix)

    async def _remove(self, prefix: str) -> None:
        # The manifest first: a folder that has one is complete.
        await self.blobs.delete(f"{prefix}/{MANIFEST_FILE}")
        for key in [key async for key in self.blobs.list(f"{prefix}/")]:
            await self.blobs.delete(key)
        await self.integrity.forget_folder(prefix)
        metrics.FOLDERS_REMOVED.inc()
        _log.info("folder removed", extra={"prefix": prefix})
        await self.clock.sleep(1 / REMOVALS_PER_SECOND)


def _item(kind: Literal["revision", "bytes"], policy: PolicyRecord, number: int) -> CollectionItem:
    what = f"{policy.name}@{number}"
    return CollectionItem(kind=kind, what=what, policy_id=policy.policy_id, tenant_id=policy.tenant_id)
