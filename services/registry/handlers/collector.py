"""Collection: what the plan of `core.collection` and the reconciler's notes let go is retired and removed.

Invariants: nothing is removed before its row says so, durably; a removal that was broken off is finished by
the next collection; one registry collects at a time. A collection answers within its time, however many
policies there are: the next one goes on where it stopped.
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
from services.registry.core.collection import plan_collection
from services.registry.ports import Catalog, Custody

POLICIES_AT_ONCE = 100
REMOVALS_PER_SECOND = 100.0
SECONDS = 10.0
"""How long one collection looks at policies."""
_WALK = "collect"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Round:
    """One collection on its way: what it has done, and how much more it may."""

    used: AbstractSet[Digest]
    is_dry: bool
    limit: int
    items: list[CollectionItem] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.items) >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Collects on demand. ``grace_seconds`` is how long what nobody uses stays at least."""

    catalog: Catalog
    custody: Custody
    blobs: Blobs
    clock: Clock
    grace_seconds: float

    async def collect(self, *, used: AbstractSet[Digest], dry_run: bool, limit: int) -> CollectionReport:
        """Let go of at most ``limit`` things, or only say what would go.

        ``used`` are the digests that engines and trainers hold. Raises Unavailable while another collection
        is at work.
        """
        async with self.custody.turn("collect") as is_ours:
            if not is_ours:
                raise Unavailable(what="the collector", problem="another collection is at work")
            going = _Round(used=used, is_dry=dry_run, limit=limit)
            if not dry_run:
                await self._finish_removals()
            place = await self._collect_policies(going)
            if not place:
                await self._collect_folders(going)
            if not dry_run:
                await self.custody.keep_place(_WALK, place)
                await self._finish_removals()
            more = bool(place) or going.is_full
            return CollectionReport(dry_run=dry_run, items=tuple(going.items), more=more)

    async def _collect_policies(self, going: _Round) -> str:
        """Return the last policy that is done with, "" at the end of all."""
        done, ends_at = await self.custody.place(_WALK), self.clock.monotonic() + SECONDS
        async for policy_id in self._candidates(done):
            policy, holdings = await self.custody.holdings(policy_id)
            plan = plan_collection(
                holdings, going.used, now=self.clock.now(), grace_seconds=self.grace_seconds
            )
            for number in plan.retire:
                await self._retire(going, policy, number)
            for number in plan.collect:
                if not going.is_full and (going.is_dry or await self.custody.give_up_bytes(policy, number)):
                    going.items.append(_item("bytes", policy, number))
            if going.is_full:
                return done  # of this one there may be more
            done = policy_id
            if self.clock.monotonic() >= ends_at:
                return done
        return ""

    async def _retire(self, going: _Round, policy: PolicyRecord, number: int) -> None:
        if going.is_full:
            return
        if not going.is_dry:
            try:
                await self.catalog.set_state(policy, number, "retired")
            except RevisionInUse:
                return  # an alias came to point at it meanwhile
        going.items.append(_item("revision", policy, number))

    async def _candidates(self, after: str) -> AsyncIterator[PolicyId]:
        while page := await self.custody.candidates(after=after, limit=POLICIES_AT_ONCE):
            for policy_id in page:
                yield policy_id
            after = page[-1]

    async def _collect_folders(self, going: _Round) -> None:
        before = self.clock.now() - self.grace_seconds
        room = going.limit - len(going.items)
        for folder in await self.custody.garbage(before=before, limit=room) if room else ():
            if going.is_dry or await self.custody.give_up_folder(folder):
                going.items.append(
                    CollectionItem(kind="folder", what=folder.prefix, policy_id=folder.policy_id)
                )

    async def _finish_removals(self) -> None:
        while prefixes := await self.custody.going(limit=POLICIES_AT_ONCE):
            for prefix in prefixes:
                await self._remove(prefix)

    async def _remove(self, prefix: str) -> None:
        # The manifest first: a folder that has one is complete.
        await self.blobs.delete(f"{prefix}/{MANIFEST_FILE}")
        for key in [key async for key in self.blobs.list(f"{prefix}/")]:
            await self.blobs.delete(key)
        await self.custody.removed(prefix)
        metrics.FOLDERS_REMOVED.inc()
        _log.info("folder removed", extra={"prefix": prefix})
        await self.clock.sleep(1 / REMOVALS_PER_SECOND)


def _item(kind: Literal["revision", "bytes"], policy: PolicyRecord, number: int) -> CollectionItem:
    what = f"{policy.name}@{number}"
    return CollectionItem(kind=kind, what=what, policy_id=policy.policy_id, tenant_id=policy.tenant_id)
