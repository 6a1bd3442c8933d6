"""Loads over time: from the blob store into host memory, one per revision however many wait for it.

Invariants: all decisions are `core.cold_queue`'s and `core.residency`'s; a failed load fails those who wait
for it and nobody else; room is reserved before the engine is given anything, and given back if that fails.
"""

import asyncio
import itertools
import logging
from collections import deque
from dataclasses import dataclass
from statistics import median

from mint_common.claims import RevisionRef
from mint_common.errors import MintError, Overloaded, Unavailable
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from mint_common.telemetry import tracing
from mint_common.waiting import wait_for_event
from services.loader import metrics
from services.loader.core.cold_queue import ColdQueue, Job, Priority
from services.loader.core.residency import State
from services.loader.holdings import Held, Holdings
from services.loader.ports import Engine, LoadedAdapter, StagedAdapter, Staging
from services.loader.residency_log import ResidencyLog
from services.loader.wants import Want

_log = logging.getLogger(__name__)

_MEASURED_LOADS = 32
_FIRST_GUESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """How many loads may wait, in all and of one tenant, how many run, and how long one may wait."""

    queue_depth: int
    tenant_queue_depth: int
    workers: int
    queue_wait_seconds: float
    room_wait_seconds: float


class Loads:
    """Brings adapters into host memory."""

    def __init__(
        self,
        *,
        engine: Engine,
        staging: Staging,
        holdings: Holdings,
        log: ResidencyLog,
        limits: LoadLimits,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._staging = staging
        self._holdings = holdings
        self._log = log
        self._limits = limits
        self._clock = clock
        self.queue = ColdQueue(
            depth=limits.queue_depth, tenant_depth=limits.tenant_queue_depth, workers=limits.workers
        )
        self._wants: dict[Digest, Want] = {}
        self._on_engine: set[int] = set()
        self._numbers = itertools.count(1)
        self._load_seconds: deque[float] = deque(maxlen=_MEASURED_LOADS)
        self._load_bytes: deque[int] = deque(maxlen=_MEASURED_LOADS)
        self._wake = asyncio.Event()

    @property
    def wanted(self) -> list[Digest]:
        """Return what waits or is being loaded."""
        return list(self._wants)

    def is_loading(self, number: int) -> bool:
        """Return whether the engine is being given an adapter of that number."""
        return number in self._on_engine

    async def bring(
        self, revision: RevisionRef, *, tenant_id: TenantId, cause: str, priority: Priority, claims: bool
    ) -> None:
        """Return when an adapter is in host memory, claimed if wanted so.

        Raises Overloaded when no place, room or time is left, and whatever the load raised.
        """
        want = self._want(revision, tenant_id, cause, priority)
        ready = want.join(revision, tenant_id, claims=claims).ready
        digest = revision.digest
        try:
            await ready
        except asyncio.CancelledError:
            if not ready.cancelled() and ready.exception() is None:
                if claims:  # the load had ended, and counted this request's claim
                    self._unclaim(digest)
            elif self._wants.get(digest) is want:
                self.queue = self.queue.leave(digest)
                if self.queue.job(digest) is None:
                    del self._wants[digest]
                self._measure_queue()
            raise

    async def bring_back(self, digest: Digest) -> None:
        """Give the engine once more what it has lost of a resident that does not leave meanwhile.

        Raises whatever the load raised.
        """
        held = self._holdings.held[digest]
        metrics.DISCREPANCIES.labels(kind="lost").inc()
        _log.warning("adapter lost by the engine", extra={"digest": digest})
        await self._staging.stage(held.revision)
        await self._engine.unload(held.adapter.number)  # of several workers some may have it still
        await self._engine.stage(held.adapter)

    async def run(self) -> None:
        """Load what waits, until cancelled; then whoever still waits gets Unavailable."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._expire())
                while True:
                    self.queue, job = self.queue.start()
                    self._measure_queue()
                    if job is None:
                        self._wake.clear()
                        await self._wake.wait()
                    else:
                        want = self._wants[job.digest]
                        group.create_task(self._load(want, job), context=want.context)
        finally:
            for want in self._wants.values():
                want.fail(Unavailable(what="the loader", problem="it is stopping"))

    async def _expire(self) -> None:
        """Refuse what has waited too long."""
        while True:
            await self._clock.sleep(min(1.0, self._limits.queue_wait_seconds))
            self.queue, late = self.queue.expire(self._clock.monotonic())
            for job in late:
                self._wants.pop(job.digest).fail(self._overloaded("cold queue"))
            self._measure_queue()

    def _want(self, revision: RevisionRef, tenant_id: TenantId, cause: str, priority: Priority) -> Want:
        digest, now = revision.digest, self._clock.monotonic()
        try:
            admission = self.queue.ask(
                digest,
                priority,
                tenant_id=tenant_id,
                size_bytes=self._expected_bytes(digest),
                load_seconds=self._load_seconds,
                deadline=now + self._limits.queue_wait_seconds,
            )
        except Overloaded:
            metrics.REFUSALS.inc()
            raise
        self.queue = admission.queue
        if admission.shed is not None:
            self._wants.pop(admission.shed).fail(self._overloaded("cold queue"))
        if not admission.joined:
            self._wants[digest] = Want(revision=revision, tenant_id=tenant_id, cause=cause, asked_at=now)
            self._wake.set()
        return self._wants[digest]

    async def _load(self, want: Want, job: Job) -> None:
        digest = want.revision.digest
        began = self._clock.monotonic()
        metrics.LOAD_SECONDS.labels(stage="queue").observe(began - want.asked_at)
        metrics.QUEUE_WAIT_SECONDS.labels(priority=job.priority.name.lower()).observe(began - want.asked_at)
        try:
            with tracing.span("load adapter", digest=digest):
                adapter, size_bytes = await self._bring_in(want)
        except MintError as error:
            if not error.retryable:
                self._holdings.note_end(digest, State.FAILED)
                for tenant_id, revision in want.tenants().items():
                    self._holdings.uses.fail(revision, tenant_id)
                    self._log.failed(digest, error, tenant_id=tenant_id, cause=want.cause)
            self._forget(digest, None)
            want.fail(error)
            return
        seconds = self._clock.monotonic() - began
        self._load_seconds.append(seconds)
        self._load_bytes.append(size_bytes)
        self._finish(want, adapter, size_bytes, seconds)
        await self._trim()

    def _finish(self, want: Want, adapter: LoadedAdapter, size_bytes: int, seconds: float) -> None:
        digest, holdings = want.revision.digest, self._holdings
        holdings.residency = holdings.residency.finish_load(
            digest,
            size_bytes=size_bytes,
            load_seconds=seconds,
            claims=sum(waiter.claims for waiter in want.present()),
            now=self._clock.now(),
        )
        holdings.enter(digest, Held(adapter=adapter, revision=want.revision))
        for tenant_id, revision in want.tenants().items():
            holdings.join(revision, tenant_id, cause=want.cause, now=self._clock.now())
        want.succeed()
        self._forget(digest, size_bytes)

    async def _trim(self) -> None:
        try:
            await self._staging.trim(keep={*self._holdings.residency.residents, *self._wants})
        except MintError as error:
            if not error.retryable:
                raise
            _log.warning("disk cache not trimmed", extra={"problem": str(error)})  # the next load tries again

    async def _bring_in(self, want: Want) -> tuple[LoadedAdapter, int]:
        staged = await self._staging.stage(want.revision)
        victims = await self._make_room(want, staged)
        adapter = LoadedAdapter(digest=staged.digest, number=next(self._numbers), folder=staged.folder)
        began = self._clock.monotonic()
        self._on_engine.add(adapter.number)
        try:
            # All at once: the room of the last one may be another load's by now.
            await asyncio.gather(*(self._engine.unload(victim.number) for victim in victims))
            size_bytes = await self._engine.stage(adapter)
        except BaseException:
            self._holdings.residency = self._holdings.residency.abandon(staged.digest)
            self._holdings.freed.set()
            raise
        finally:
            self._on_engine.discard(adapter.number)
        metrics.LOAD_SECONDS.labels(stage="layout").observe(self._clock.monotonic() - began)
        return adapter, size_bytes

    async def _make_room(self, want: Want, staged: StagedAdapter) -> list[LoadedAdapter]:
        """Reserve room and return whom it displaces; only a request waits for others to end."""
        holdings = self._holdings
        deadline = self._clock.monotonic() + self._limits.room_wait_seconds
        while not (room := holdings.residency.plan_room(staged.host_bytes)).fits:
            left = deadline - self._clock.monotonic()
            job = self.queue.job(staged.digest)
            is_urgent = job is not None and job.priority is Priority.REQUEST
            if room.hopeless or not is_urgent or left <= 0:
                raise self._overloaded("host memory of the engine")
            holdings.freed.clear()
            await wait_for_event(holdings.freed, clock=self._clock, seconds=left)
        victims = [holdings.drop(digest, cause=want.cause) for digest in room.victims]
        holdings.residency = holdings.residency.reserve(staged.digest, staged.host_bytes)
        return victims

    def _unclaim(self, digest: Digest) -> None:
        self._holdings.residency = self._holdings.residency.unclaim(digest, now=self._clock.now())
        self._holdings.freed.set()

    def _forget(self, digest: Digest, size_bytes: int | None) -> None:
        del self._wants[digest]
        self.queue = self.queue.finish(digest, size_bytes=size_bytes)
        self._wake.set()

    def _expected_bytes(self, digest: Digest) -> int:
        stored = self._staging.size_of(digest)
        if stored is not None:
            return stored
        return int(median(self._load_bytes)) if self._load_bytes else _FIRST_GUESS_BYTES

    def _overloaded(self, what: str) -> Overloaded:
        metrics.REFUSALS.inc()
        return Overloaded(
            what=what,
            depth=len(self.queue.waiting),
            retry_after_seconds=self.queue.estimate_wait_seconds(self._load_seconds),
        )

    def _measure_queue(self) -> None:
        for priority in Priority:
            depth = sum(job.priority is priority for job in self.queue.waiting)
            metrics.QUEUE_DEPTH.labels(priority=priority.name.lower()).set(depth)
