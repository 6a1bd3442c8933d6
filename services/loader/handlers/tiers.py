"""The adapters of one engine for their users: hold, prewarm, pin, evict, list.

Invariants:
- All decisions are the core's; state changes happen between awaits, so that no task sees a half-made one.
- Equal bytes of several tenants are one adapter; each tenant has its own pins and view of it.
- A request claims its adapter from the end of the load until its stream ends, and runs only while
  the adapter is in a slot.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.errors import AdapterPinned, NotFound, PreconditionFailed
from mint_common.generation import AdapterStatus, CacheUse, EngineReport, Place
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from services.loader import metrics
from services.loader.core.cold_queue import Priority
from services.loader.core.requests import check_revision
from services.loader.core.residency import Capacity, Residency, State
from services.loader.core.tenant_use import TenantUse
from services.loader.core.working_set import WorkingSetEntry
from services.loader.handlers.loads import LoadLimits, Loads
from services.loader.handlers.residency_log import ResidencyLog
from services.loader.handlers.resident_set import ResidentSet
from services.loader.handlers.slots import SlotLimits, Slots
from services.loader.handlers.statuses import Statuses
from services.loader.ports import Engine, LoadedAdapter, Staging

RECENT_SECONDS = 60.0
"""Time since its last request for which an adapter counts as in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """Limits of resident adapters, of waiting loads, and of activation time."""

    capacity: Capacity
    loads: LoadLimits
    slots: SlotLimits


class Tiers:
    """Loads, holds and evicts adapters under admission control."""

    def __init__(
        self, *, engine: Engine, staging: Staging, log: ResidencyLog, limits: TierLimits, clock: Clock
    ) -> None:
        self._engine = engine
        self._staging = staging
        self._clock = clock
        self.resident_set = ResidentSet(Residency(capacity=limits.capacity), log)
        self._loads = Loads(
            engine=engine,
            staging=staging,
            resident_set=self.resident_set,
            log=log,
            limits=limits.loads,
            clock=clock,
        )
        self._statuses = Statuses(self.resident_set, self._loads, staging)
        self._slots = Slots(
            engine=engine,
            resident_set=self.resident_set,
            limits=limits.slots,
            clock=clock,
            bring_back=self._loads.bring_back,
        )

    @asynccontextmanager
    async def hold(
        self, revision: RevisionRef, *, tenant_id: TenantId, cause: str
    ) -> AsyncIterator[LoadedAdapter]:
        """Hold an adapter in a slot for the length of the block, loading it first if needed.

        Raises Overloaded when the cold queue is full or no memory becomes free, and the load's errors.
        """
        check_revision(revision)
        digest = revision.digest
        resident_set, clock = self.resident_set, self._clock
        await self._claim(revision, tenant_id, cause)
        resident_set.join(revision, tenant_id, cause=cause, now=clock.now())
        resident_set.uses.begin(digest, tenant_id, now=clock.now())
        try:
            await self._slots.enter(digest)
            try:
                since = resident_set.residency.residents[digest].slot_since
                resident_set.uses.use_slot(digest, tenant_id, since=since)
                yield resident_set.held[digest].adapter
            finally:
                self._slots.leave(digest)
        finally:
            resident_set.uses.end(digest, tenant_id, now=clock.now())
            resident_set.residency = resident_set.residency.unclaim(digest, now=clock.now())
            resident_set.freed.set()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Count a generating request: activations yield to it."""
        self.resident_set.generating += 1
        try:
            yield
        finally:
            self.resident_set.generating -= 1

    @contextmanager
    def first_token(self, *, warm: bool) -> Iterator[Callable[[], None]]:
        """Count a request that waits for its first token, until what this yields is called: it has come.

        ``warm``: its adapter was in a slot when it came.
        """
        with self._slots.first_token(warm=warm) as came:
            yield came

    def is_in_slot(self, digest: Digest) -> bool:
        """Return whether a request for an adapter would run at once."""
        resident = self.resident_set.residency.get(digest)
        return resident is not None and resident.in_slot

    def is_in_use(self, digest: Digest) -> bool:
        """Return whether requests use an adapter, or did in the last `RECENT_SECONDS`."""
        held = self.resident_set.held.get(digest)
        uses = self.resident_set.uses.of_load(digest, held.adapter.number) if held else {}
        since = self._clock.now() - RECENT_SECONDS
        return any(use.uses and (use.in_flight or use.last_used_at >= since) for use in uses.values())

    def tier(self, digest: Digest) -> str:
        """Return where an adapter is now: stored, host or slot."""
        if self.is_in_slot(digest):
            return "slot"
        return "host" if self.resident_set.residency.in_host(digest) else "stored"

    async def prewarm(
        self,
        revision: RevisionRef,
        *,
        tenant_id: TenantId,
        cause: str,
        priority: Priority = Priority.PREWARM,
    ) -> AdapterStatus:
        """Return when the adapter is in host memory, and in a slot if one was empty. Idempotent.

        Raises as `hold`.
        """
        check_revision(revision)
        digest, resident_set = revision.digest, self.resident_set
        with resident_set.uses.waiting(revision, tenant_id, priority, now=self._clock.now()):
            if not resident_set.residency.in_host(digest):
                await self._loads.bring(
                    revision, tenant_id=tenant_id, cause=cause, priority=priority, claims=False
                )
            if resident_set.residency.in_host(digest):
                resident_set.join(revision, tenant_id, cause=cause, now=self._clock.now())
            await self._slots.warm(digest)
            resident = resident_set.residency.get(digest)
            if resident is not None and resident.state is State.READY:
                resident_set.uses.use_slot(digest, tenant_id, since=resident.slot_since)
        return self.status(digest, tenant_id=tenant_id)

    def pin(self, digest: Digest, *, tenant_id: TenantId, pinned: bool) -> AdapterStatus:
        """Pin or unpin an adapter in host memory for a tenant that uses it. Raises NotFound."""
        self._use_of(digest, tenant_id)
        self.resident_set.residency = self.resident_set.residency.with_pin(digest, tenant_id, pinned=pinned)
        self.resident_set.freed.set()
        return self.status(digest, tenant_id=tenant_id)

    async def evict(self, digest: Digest, *, tenant_id: TenantId, cause: str) -> AdapterStatus:
        """Take an adapter from a tenant, and off the engine when no other tenant uses it.

        Raises NotFound, AdapterPinned, or PreconditionFailed when the tenant is using it.
        """
        use, resident = self._use_of(digest, tenant_id), self.resident_set.residency.residents[digest]
        if tenant_id in resident.pins:
            raise AdapterPinned(digest=digest)
        if use.in_flight:
            found = f"in use by {use.in_flight} requests"
            raise PreconditionFailed(what=f"adapter {digest}", found=found, expected="idle")
        if len(self.resident_set.uses.of_load(digest, use.number)) > 1:
            self.resident_set.leave(digest, tenant_id, cause=cause)
        else:
            dropped = self.resident_set.drop(digest, cause=cause, reason="asked")
            await self._engine.unload(dropped.number)
        return self.status(digest, tenant_id=tenant_id)

    def status(self, digest: Digest, *, tenant_id: TenantId | None = None) -> AdapterStatus:
        """Return the place of one adapter: for a tenant, or for any user of it."""
        if tenant_id is None:
            return self._statuses.of(digest)
        return self._statuses.of_tenant(digest, tenant_id)

    def statuses(self, *, tenant_id: TenantId | None = None, limit: int | None = None) -> list[AdapterStatus]:
        """Return where every adapter is that is known, or that a tenant has used; the nearest first."""
        if tenant_id is None:
            return self._statuses.all(limit=limit)
        return self._statuses.all_of_tenant(tenant_id, limit=limit)

    def places(self, limit: int) -> Mapping[Digest, Place]:
        """Return the tier of every adapter that is known, the nearest first."""
        return self._statuses.places(limit=limit)

    def working_set(self) -> list[WorkingSetEntry]:
        """Return the adapters to reload after a restart: all finished ones in host memory."""
        residents = self.resident_set.residency.residents
        return [
            WorkingSetEntry(
                revision=use.revision,
                tenant_id=tenant_id,
                pinned=tenant_id in residents[digest].pins,
                uses=max(1, use.uses),
                last_used_at=use.last_used_at,
            )
            for digest, held in self.resident_set.held.items()
            for tenant_id, use in self.resident_set.uses.of_load(digest, held.adapter.number).items()
        ]

    def load(self, *, requests: int, tokens: int, cache: CacheUse | None = None) -> EngineReport:
        """Return how busy the engine is; ``requests`` and their ``tokens`` are those that are open."""
        residency, queue = self.resident_set.residency, self._loads.queue
        return EngineReport(
            requests=requests,
            tokens=tokens,
            cache=cache,
            loads_waiting=len(queue.waiting),
            loads_running=len(queue.running),
            in_slots=residency.slots_used,
            in_host=len(residency.residents),
            host_bytes=residency.used_bytes,
            host_bytes_capacity=residency.capacity.host_bytes,
        )

    @property
    def keeps_requests_waiting(self) -> bool:
        """Return whether a request waits for a load, for a slot or for its first token."""
        return (
            self._loads.queue.has_requests or self._slots.has_requests or self.resident_set.first_tokens > 0
        )

    async def run(self) -> None:
        """Load and activate until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loads.run())
            group.create_task(self._slots.run())

    async def reconcile(self) -> None:
        """Compare with the engine's actual adapters, which hold.

        An adapter that the engine lost is loaded again by the next request; one unknown here is freed.
        Only adapters unchanged during the engine's answer are compared.
        """
        before = dict(self.resident_set.held)
        found = await self._engine.residents()
        for digest, held in before.items():
            resident = self.resident_set.residency.get(digest)
            if self.resident_set.held.get(digest) is not held or resident is None or not resident.evictable:
                continue
            if held.adapter.number not in found:
                metrics.DISCREPANCIES.labels(kind="lost").inc()
                self.resident_set.drop(digest, cause="reconcile", reason="lost")
        known = {held.adapter.number for held in (*before.values(), *self.resident_set.held.values())}
        # All before the first await: what is being loaded now is held and not in ``known`` after it.
        strays = [number for number in found if number not in known and not self._loads.is_loading(number)]
        for number in strays:
            metrics.DISCREPANCIES.labels(kind="stray").inc()
            await self._engine.unload(number)

    async def _claim(self, revision: RevisionRef, tenant_id: TenantId, cause: str) -> None:
        digest = revision.digest
        resident = self.resident_set.residency.get(digest)
        if resident is not None and resident.state is not State.FETCHING:
            metrics.HITS.labels(tier=resident.tier.value).inc()
            self.resident_set.residency = self.resident_set.residency.claim(digest, now=self._clock.now())
            return
        metrics.HITS.labels(tier="disk" if self._staging.holds(digest) else "remote").inc()
        uses, priority = self.resident_set.uses, Priority.REQUEST
        with uses.waiting(revision, tenant_id, priority, now=self._clock.now()):
            await self._loads.bring(
                revision, tenant_id=tenant_id, cause=cause, priority=priority, claims=True
            )

    def _use_of(self, digest: Digest, tenant_id: TenantId) -> TenantUse:
        use = self.resident_set.use_of(digest, tenant_id)
        if use is None:
            raise NotFound(kind="adapter on this engine", name=digest)
        return use
