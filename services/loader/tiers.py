"""The adapters of one engine, to those who use them: hold, prewarm, pin, evict, look.

Invariants:
- All decisions are the core's; state changes happen between awaits, so that no two tasks see one half made.
- A request claims its adapter from the moment that the load ends until its stream ends, and runs only while
  the adapter is in a slot.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

from mint_common.claims import RevisionRef
from mint_common.generation import AdapterStatus, EngineLoad
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from services.loader import metrics
from services.loader.core.cold_queue import Priority
from services.loader.core.requests import check_revision
from services.loader.core.residency import Capacity, Residency, Resident, State
from services.loader.core.working_set import Kept
from services.loader.holdings import Holdings
from services.loader.loading import LoadLimits, Loads
from services.loader.ports import Engine, LoadedAdapter, Staging
from services.loader.residency_log import ResidencyLog
from services.loader.slots import SlotLimits, Slots

_READINESS: dict[State, Literal["registered", "prewarming", "ready"]] = {
    State.FETCHING: "prewarming",
    State.STAGED: "ready",
    State.ACTIVATING: "ready",
    State.READY: "ready",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """How much may be resident, how much may wait, and how much activation the engine takes."""

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
        self.holdings = Holdings(Residency(capacity=limits.capacity), log)
        self._loads = Loads(
            engine=engine,
            staging=staging,
            holdings=self.holdings,
            log=log,
            limits=limits.loads,
            clock=clock,
        )
        self._slots = Slots(
            engine=engine,
            holdings=self.holdings,
            limits=limits.slots,
            clock=clock,
            bring_back=self._loads.bring_back,
        )

    @asynccontextmanager
    async def hold(
        self, revision: RevisionRef, *, tenant_id: TenantId, cause: str
    ) -> AsyncIterator[LoadedAdapter]:
        """Keep an adapter in a slot for the length of the block, loading it first if needed.

        Raises Overloaded when the cold queue is full or no room comes free, and whatever the load raised.
        """
        check_revision(revision)
        digest = revision.digest
        await self._claim(revision, tenant_id, cause)
        try:
            await self._slots.enter(digest)
            try:
                yield self.holdings.held[digest].adapter
            finally:
                self._slots.leave(digest)
        finally:
            self.holdings.residency = self.holdings.residency.unclaim(digest, now=self._clock.now())
            self.holdings.freed.set()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Count a request that the engine generates for: activations make way for it."""
        self.holdings.generating += 1
        try:
            yield
        finally:
            self.holdings.generating -= 1

    @contextmanager
    def first_token(self, *, warm: bool) -> Iterator[Callable[[], None]]:
        """Count a request that waits for its first token, until what this yields is called: it has come.

        ``warm``: its adapter was in a slot when it came.
        """
        with self._slots.first_token(warm=warm) as came:
            yield came

    def is_in_slot(self, digest: Digest) -> bool:
        """Return whether a request for an adapter would run at once."""
        resident = self.holdings.residency.get(digest)
        return resident is not None and resident.in_slot

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
        if not self.holdings.residency.in_host(revision.digest):
            await self._loads.bring(
                revision, tenant_id=tenant_id, cause=cause, priority=priority, claims=False
            )
        await self._slots.warm(revision.digest)
        return self.status(revision.digest)

    def pin(self, digest: Digest, *, pinned: bool) -> AdapterStatus:
        """Pin or unpin an adapter in host memory. Raises NotFound."""
        self.holdings.residency = self.holdings.residency.with_pin(digest, pinned=pinned)
        self.holdings.freed.set()
        return self.status(digest)

    async def evict(self, digest: Digest, *, cause: str) -> AdapterStatus:
        """Take an idle adapter off the engine. Raises NotFound or PreconditionFailed."""
        await self._engine.unload(self.holdings.drop(digest, cause=cause).number)
        return self.status(digest)

    def status(self, digest: Digest) -> AdapterStatus:
        """Return where one adapter is."""
        return self._status(digest, self._staging.size_of(digest) or 0, self._loads.queue.position(digest))

    def statuses(self, *, limit: int | None = None) -> list[AdapterStatus]:
        """Return every adapter on the engine, in the queue or on the local disk, the nearest first."""
        stored = {entry.digest: entry.size_bytes for entry in self._staging.stored()}
        residents = sorted(
            self.holdings.residency.residents.values(), key=lambda r: (r.in_slot, r.touched), reverse=True
        )
        places = {job.digest: place for place, job in enumerate(self._loads.queue.in_order())}
        known = dict.fromkeys((*(r.digest for r in residents), *self._loads.wanted, *stored))
        return [
            self._status(digest, stored.get(digest, 0), places.get(digest))
            for digest in itertools.islice(known, limit)
        ]

    def working_set(self) -> list[Kept]:
        """Return what is worth loading again after a restart: all that is finished in host memory."""
        residents = self.holdings.residency.residents
        return [
            Kept(
                revision=held.revision,
                tenant_id=held.tenant_id,
                pinned=residents[digest].pinned,
                uses=residents[digest].uses,
                last_used_at=residents[digest].last_used_at,
            )
            for digest, held in self.holdings.held.items()
        ]

    def load(self, *, requests: int) -> EngineLoad:
        """Return how busy the engine is; ``requests`` are those that generate."""
        residency, queue = self.holdings.residency, self._loads.queue
        return EngineLoad(
            requests=requests,
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
        return self._loads.queue.has_requests or self._slots.has_requests or self.holdings.first_tokens > 0

    async def run(self) -> None:
        """Load and activate until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loads.run())
            group.create_task(self._slots.run())

    async def reconcile(self) -> None:
        """Compare with what the engine really has, and believe the engine.

        What it has lost is loaded again by the next request; what it holds without our knowledge is freed.
        Only what was the same before and after the engine's answer is judged.
        """
        before = dict(self.holdings.held)
        found = await self._engine.residents()
        for digest, held in before.items():
            resident = self.holdings.residency.get(digest)
            if self.holdings.held.get(digest) is not held or resident is None or not resident.evictable:
                continue
            if held.adapter.number not in found:
                metrics.DISCREPANCIES.labels(kind="lost").inc()
                self.holdings.drop(digest, cause="reconcile")
        known = {held.adapter.number for held in (*before.values(), *self.holdings.held.values())}
        # All before the first await: what is being loaded now is held and not in ``known`` after it.
        strays = [number for number in found if number not in known and not self._loads.is_loading(number)]
        for number in strays:
            metrics.DISCREPANCIES.labels(kind="stray").inc()
            await self._engine.unload(number)

    async def _claim(self, revision: RevisionRef, tenant_id: TenantId, cause: str) -> None:
        digest = revision.digest
        resident = self.holdings.residency.get(digest)
        if resident is not None and resident.state is not State.FETCHING:
            metrics.HITS.labels(tier=resident.tier.value).inc()
            self.holdings.residency = self.holdings.residency.claim(digest, now=self._clock.now())
            return
        metrics.HITS.labels(tier="disk" if self._staging.holds(digest) else "remote").inc()
        await self._loads.bring(
            revision, tenant_id=tenant_id, cause=cause, priority=Priority.REQUEST, claims=True
        )

    def _status(self, digest: Digest, stored_bytes: int, place: int | None) -> AdapterStatus:
        known = self.holdings.residency.get(digest)
        state = known.state if known else self._state_without_room(digest, place)
        resident = known or Resident(digest=digest, size_bytes=stored_bytes, state=State.FETCHING)
        return AdapterStatus(
            digest=digest,
            tier=resident.tier.value,
            readiness=_READINESS.get(state, "registered"),
            state=state.value,
            size_bytes=resident.size_bytes,
            host_bytes=resident.size_bytes if known else 0,
            slot_bytes=resident.size_bytes if resident.in_slot else 0,
            pinned=resident.pinned,
            in_flight=resident.in_flight,
            last_used_at=resident.last_used_at,
            load_seconds=resident.load_seconds,
            queue_position=place,
        )

    def _state_without_room(self, digest: Digest, place: int | None) -> State:
        if place is not None:
            return State.QUEUED
        is_running = any(job.digest == digest for job in self._loads.queue.running)
        return State.FETCHING if is_running else self.holdings.end_of(digest)
