"""The adapters of one engine over time: who is loaded, by whom awaited, by whom displaced.

Invariants:
- All decisions are `core.residency`'s and `core.cold_queue`'s; state changes happen between awaits, so that
  no two tasks see one half made.
- A request holds its adapter from the moment that the load ends until its stream ends.
- A failed load fails those who wait for it and nobody else; the engine keeps what it had.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.errors import MintError, Overloaded, Unavailable
from mint_common.generation import AdapterStatus, EngineLoad
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from mint_common.telemetry import tracing
from mint_common.waiting import wait_for_event
from services.loader import metrics
from services.loader.core.cold_queue import ColdQueue, Priority
from services.loader.core.requests import check_revision
from services.loader.core.residency import Capacity, Readiness, Residency, Resident
from services.loader.ports import Engine, LoadedAdapter, StagedAdapter, Staging
from services.loader.residency_log import ResidencyLog
from services.loader.wants import Want

_MEASURED_LOADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """How much may be resident, and how much may wait."""

    capacity: Capacity
    queue_depth: int
    load_workers: int
    room_wait_seconds: float


class Tiers:
    """Loads, holds and evicts adapters under admission control."""

    def __init__(
        self, *, engine: Engine, staging: Staging, log: ResidencyLog, limits: TierLimits, clock: Clock
    ) -> None:
        self._engine = engine
        self._staging = staging
        self._log = log
        self._room_wait_seconds = limits.room_wait_seconds
        self._clock = clock
        self._residency = Residency(capacity=limits.capacity)
        self._queue = ColdQueue(depth=limits.queue_depth, workers=limits.load_workers)
        self._wants: dict[Digest, Want] = {}
        self._held: dict[Digest, tuple[LoadedAdapter, TenantId]] = {}
        self._numbers = itertools.count(1)
        self._load_seconds: deque[float] = deque(maxlen=_MEASURED_LOADS)
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(
        self, revision: RevisionRef, *, tenant_id: TenantId, cause: str
    ) -> AsyncIterator[LoadedAdapter]:
        """Keep an adapter on the engine for the length of the block, loading it first if needed.

        Raises Overloaded when the cold queue is full or no room comes free, and whatever the load raised.
        """
        check_revision(revision)
        adapter = await self._acquire(revision, tenant_id, cause)
        try:
            yield adapter
        finally:
            self._release(revision.digest)

    async def prewarm(
        self,
        revision: RevisionRef,
        *,
        tenant_id: TenantId,
        cause: str,
        priority: Priority = Priority.PREWARM,
    ) -> AdapterStatus:
        """Return when the adapter is ready. Idempotent. Raises as `hold`."""
        check_revision(revision)
        if not self._residency.is_ready(revision.digest):
            want = self._want(revision, tenant_id, cause, priority)
            await self._wait(want, holds=False)
        return self.status(revision.digest)

    def pin(self, digest: Digest, *, pinned: bool) -> AdapterStatus:
        """Pin or unpin a ready adapter. Raises NotFound."""
        self._residency = self._residency.with_pin(digest, pinned=pinned)
        self._freed.set()
        return self.status(digest)

    async def evict(self, digest: Digest, *, cause: str) -> AdapterStatus:
        """Take an idle adapter off the engine. Raises NotFound or PreconditionFailed."""
        await self._engine.unload(self._drop(digest, cause))
        self._freed.set()
        return self.status(digest)

    def status(self, digest: Digest) -> AdapterStatus:
        """Return where one adapter is."""
        stored = {entry.digest: entry.size_bytes for entry in self._staging.stored()}
        return self._status(digest, stored.get(digest, 0))

    def statuses(self, *, limit: int | None = None) -> list[AdapterStatus]:
        """Return every adapter on the engine, in the queue or on the local disk, the nearest first."""
        stored = {entry.digest: entry.size_bytes for entry in self._staging.stored()}
        residents = sorted(
            self._residency.residents.values(), key=lambda r: (r.in_slot, r.touched), reverse=True
        )
        known = dict.fromkeys((*(resident.digest for resident in residents), *self._wants, *stored))
        return [self._status(digest, stored.get(digest, 0)) for digest in itertools.islice(known, limit)]

    def load(self, *, requests: int) -> EngineLoad:
        """Return how busy the engine is; ``requests`` are those that generate."""
        residency, queue = self._residency, self._queue
        return EngineLoad(
            requests=requests,
            loads_waiting=len(queue.waiting),
            loads_running=len(queue.running),
            in_slots=sum(resident.in_slot for resident in residency.residents.values()),
            in_host=len(residency.residents),
            host_bytes=residency.used_bytes,
            host_bytes_capacity=residency.capacity.host_bytes,
        )

    async def run(self) -> None:
        """Load what waits, until cancelled; then whoever still waits gets Unavailable."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._queue, job = self._queue.start()
                    metrics.QUEUE_DEPTH.set(len(self._queue.waiting))
                    if job is None:
                        self._wake.clear()
                        await self._wake.wait()
                    else:
                        want = self._wants[job.digest]
                        group.create_task(self._load(want), context=want.context)
        finally:
            for want in self._wants.values():
                want.fail(Unavailable(what="the loader", problem="it is stopping"))

    async def _acquire(self, revision: RevisionRef, tenant_id: TenantId, cause: str) -> LoadedAdapter:
        digest = revision.digest
        resident = self._residency.get(digest)
        if resident is not None and resident.readiness is Readiness.READY:
            metrics.HITS.labels(tier="slot" if resident.in_slot else "host").inc()
            self._residency = self._residency.acquire(digest, now=self._clock.now())
            return self._held[digest][0]
        want = self._want(revision, tenant_id, cause, Priority.REQUEST)
        metrics.HITS.labels(tier="disk" if self._staging.holds(digest) else "remote").inc()
        return await self._wait(want, holds=True)

    def _release(self, digest: Digest) -> None:
        self._residency = self._residency.release(digest, now=self._clock.now())
        self._freed.set()

    def _want(self, revision: RevisionRef, tenant_id: TenantId, cause: str, priority: Priority) -> Want:
        digest = revision.digest
        try:
            admission = self._queue.ask(digest, priority, load_seconds=self._load_seconds)
        except Overloaded:
            metrics.REFUSALS.inc()
            raise
        self._queue = admission.queue
        if admission.shed is not None:
            self._wants.pop(admission.shed).fail(self._overloaded("cold queue"))
        if not admission.joined:
            asked_at = self._clock.monotonic()
            self._wants[digest] = Want(revision=revision, tenant_id=tenant_id, cause=cause, asked_at=asked_at)
            self._wake.set()
        return self._wants[digest]

    async def _wait(self, want: Want, *, holds: bool) -> LoadedAdapter:
        digest = want.revision.digest
        ready = want.join(holds=holds).ready
        try:
            return await ready
        except asyncio.CancelledError:
            if not ready.cancelled() and ready.exception() is None:
                if holds:  # the load had ended, and counted this request as in flight
                    self._release(digest)
            elif self._wants.get(digest) is want:
                self._queue = self._queue.leave(digest)
                if self._queue.job(digest) is None:
                    del self._wants[digest]
            raise

    async def _load(self, want: Want) -> None:
        digest = want.revision.digest
        began = self._clock.monotonic()
        metrics.LOAD_SECONDS.labels(stage="queue").observe(began - want.asked_at)
        try:
            with tracing.span("load adapter", digest=digest):
                adapter, size_bytes = await self._bring_in(want)
        except MintError as error:
            if not error.retryable:
                self._log.failed(digest, error, tenant_id=want.tenant_id, cause=want.cause)
            self._forget(digest)
            want.fail(error)
            return
        seconds = self._clock.monotonic() - began
        self._load_seconds.append(seconds)
        self._become_ready(want, adapter, seconds)
        self._log.loaded(
            digest,
            tenant_id=want.tenant_id,
            cause=want.cause,
            size_bytes=size_bytes,
            load_seconds=seconds,
        )
        await self._staging.trim(keep={*self._residency.residents, *self._wants})

    def _become_ready(self, want: Want, adapter: LoadedAdapter, seconds: float) -> None:
        digest = want.revision.digest
        self._held[digest] = (adapter, want.tenant_id)
        self._residency = self._residency.become_ready(
            digest,
            load_seconds=seconds,
            in_flight=sum(waiter.holds for waiter in want.present()),
            now=self._clock.now(),
        )
        want.succeed(adapter)
        self._forget(digest)
        metrics.RESIDENTS.set(len(self._residency.residents))

    async def _bring_in(self, want: Want) -> tuple[LoadedAdapter, int]:
        staged = await self._staging.stage(want.revision)
        victims = await self._make_room(want, staged)
        adapter = LoadedAdapter(digest=staged.digest, number=next(self._numbers), folder=staged.folder)
        began = self._clock.monotonic()
        try:
            for victim in victims:
                await self._engine.unload(victim)
            await self._engine.load(adapter)
        except BaseException:
            self._residency = self._residency.abandon(staged.digest)
            self._freed.set()
            raise
        metrics.LOAD_SECONDS.labels(stage="engine").observe(self._clock.monotonic() - began)
        return adapter, staged.size_bytes

    async def _make_room(self, want: Want, staged: StagedAdapter) -> list[LoadedAdapter]:
        """Reserve room and return whom it displaces; only a request waits for others to end."""
        deadline = self._clock.monotonic() + self._room_wait_seconds
        while not (room := self._residency.plan_room(staged.size_bytes)).fits:
            left = deadline - self._clock.monotonic()
            job = self._queue.job(staged.digest)
            is_urgent = job is not None and job.priority is Priority.REQUEST
            if room.hopeless or not is_urgent or left <= 0:
                raise self._overloaded("host memory of the engine")
            self._freed.clear()
            await wait_for_event(self._freed, clock=self._clock, seconds=left)
        victims = [self._drop(digest, want.cause) for digest in room.victims]
        self._residency = self._residency.reserve(staged.digest, staged.size_bytes)
        return victims

    def _drop(self, digest: Digest, cause: str) -> LoadedAdapter:
        self._residency = self._residency.evict(digest)
        adapter, tenant_id = self._held.pop(digest)
        metrics.RESIDENTS.set(len(self._residency.residents))
        self._log.evicted(digest, tenant_id=tenant_id, cause=cause)
        return adapter

    def _forget(self, digest: Digest) -> None:
        del self._wants[digest]
        self._queue = self._queue.finish(digest)
        self._wake.set()

    def _overloaded(self, what: str) -> Overloaded:
        metrics.REFUSALS.inc()
        return Overloaded(
            what=what,
            depth=len(self._queue.waiting),
            retry_after_seconds=self._queue.estimate_wait_seconds(self._load_seconds),
        )

    def _status(self, digest: Digest, stored_bytes: int) -> AdapterStatus:
        running = any(job.digest == digest for job in self._queue.running)
        resident = self._residency.get(digest) or Resident(
            digest=digest,
            size_bytes=stored_bytes,
            readiness=Readiness.PREWARMING if running else Readiness.REGISTERED,
        )
        return AdapterStatus(
            digest=digest,
            tier=resident.tier.value,
            readiness=resident.readiness.value,
            size_bytes=resident.size_bytes,
            pinned=resident.pinned,
            in_flight=resident.in_flight,
            last_used_at=resident.last_used_at,
            load_seconds=resident.load_seconds,
            queue_position=self._queue.position(digest),
        )
