"""Run loads: from the blob store into host memory, one per revision for any number of waiters.

Invariants: all decisions are `core.cold_queue`'s and `core.residency`'s; a failed load fails only its own
waiters; memory is reserved before the engine is given anything, and released if that fails.
"""

import asyncio
import itertools
import logging
from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

from mint_common.claims import RevisionRef
from mint_common.errors import EngineRestarting, MintError, Overloaded, trace_of
from mint_common.generation import RESTART_SECONDS
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from mint_common.telemetry import tracing
from mint_common.waiting import wait_for_event
from services.loader import metrics
from services.loader.core.cold_queue import ColdQueue, Priority, QueuedLoad
from services.loader.core.residency import State
from services.loader.handlers.pending_load import PendingLoad
from services.loader.handlers.residency_log import ResidencyLog
from services.loader.handlers.resident_set import HeldAdapter, ResidentSet
from services.loader.ports import Engine, LoadedAdapter, StagedAdapter, Staging

_log = logging.getLogger(__name__)

_MEASURED_LOADS = 32
_FIRST_GUESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """Limits of waiting loads, in total and per tenant, of running ones, and of the wait."""

    queue_depth: int
    tenant_queue_depth: int
    workers: int
    queue_wait_seconds: float = 60.0
    """Wait after which a load is refused: most clients have given up by then."""
    room_wait_seconds: float = 20.0
    """Wait of a request for room while all adapters in memory are in use: long answers end within it."""


class Loads:
    """Brings adapters into host memory."""

    def __init__(
        self,
        *,
        engine: Engine,
        staging: Staging,
        resident_set: ResidentSet,
        log: ResidencyLog,
        limits: LoadLimits,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._staging = staging
        self._resident_set = resident_set
        self._log = log
        self._limits = limits
        self._clock = clock
        self.queue = ColdQueue(
            depth=limits.queue_depth, tenant_depth=limits.tenant_queue_depth, workers=limits.workers
        )
        self._pending: dict[Digest, PendingLoad] = {}
        self._on_engine: set[int] = set()
        self._parked_bytes: dict[Digest, int] = {}
        self._numbers = itertools.count(1)
        self._load_seconds: deque[float] = deque(maxlen=_MEASURED_LOADS)
        self._load_bytes: deque[int] = deque(maxlen=_MEASURED_LOADS)
        self._wake = asyncio.Event()

    @property
    def wanted(self) -> list[Digest]:
        """Return what waits or is being loaded."""
        return list(self._pending)

    def is_loading(self, number: int) -> bool:
        """Return whether the engine is being given an adapter of that number."""
        return number in self._on_engine

    async def bring(
        self, revision: RevisionRef, *, tenant_id: TenantId, cause: str, priority: Priority, claims: bool
    ) -> None:
        """Return when an adapter is in host memory, claimed if wanted so.

        Raises Overloaded when no place, room or time is left, and whatever the load raised.
        """
        pending = self._join(revision, tenant_id, cause, priority)
        ready = pending.join(revision, tenant_id, claims=claims).ready
        digest = revision.digest
        try:
            await ready
        except asyncio.CancelledError:
            if not ready.cancelled() and ready.exception() is None:
                if claims:  # the load had ended, and counted this request's claim
                    self._unclaim(digest)
            elif self._pending.get(digest) is pending:
                self.queue = self.queue.leave(digest)
                if self.queue.load(digest) is None:
                    del self._pending[digest]
                self._measure_queue()
            raise

    async def bring_back(self, digest: Digest) -> None:
        """Load a lost resident into the engine again; it does not leave meanwhile.

        Raises the load's errors.
        """
        held = self._resident_set.held[digest]
        metrics.DISCREPANCIES.labels(kind="lost").inc()
        _log.warning("adapter lost by the engine", extra={"digest": digest})
        await self._staging.stage(held.revision)
        await self._engine.unload(held.adapter.number)  # of several workers some may have it still
        await self._engine.stage(held.adapter)

    async def run(self) -> None:
        """Run waiting loads until cancelled; remaining waiters then get EngineRestarting."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._expire())
                while True:
                    self.queue, load = self.queue.start()
                    self._measure_queue()
                    if load is None:
                        self._wake.clear()
                        await self._wake.wait()
                    else:
                        pending = self._pending[load.digest]
                        group.create_task(self._load(pending, load), context=pending.context)
        finally:
            for pending in self._pending.values():
                pending.fail(EngineRestarting(retry_after_seconds=RESTART_SECONDS))

    async def _expire(self) -> None:
        """Refuse loads that have waited too long."""
        while True:
            await self._clock.sleep(min(1.0, self._limits.queue_wait_seconds))
            self.queue, late = self.queue.expire(self._clock.monotonic())
            for load in late:
                self._pending.pop(load.digest).fail(self._overloaded("cold queue"))
            self._measure_queue()

    def _join(
        self, revision: RevisionRef, tenant_id: TenantId, cause: str, priority: Priority
    ) -> PendingLoad:
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
            self._pending.pop(admission.shed).fail(self._overloaded("cold queue"))
        if not admission.joined:
            self._pending[digest] = PendingLoad(
                revision=revision, tenant_id=tenant_id, cause=cause, asked_at=now
            )
            self._wake.set()
        return self._pending[digest]

    async def _load(self, pending: PendingLoad, load: QueuedLoad) -> None:
        digest = pending.revision.digest
        began = self._clock.monotonic()
        metrics.LOAD_SECONDS.labels(stage="queue").observe(began - pending.asked_at)
        metrics.QUEUE_WAIT_SECONDS.labels(priority=load.priority.name.lower()).observe(
            began - pending.asked_at
        )
        try:
            with tracing.span("load adapter", attributes={"digest": digest}):
                held, size_bytes = await self._bring_in(pending)
        except Exception as error:  # noqa: BLE001  # whoever asked gets it, and other loads go on
            if not isinstance(error, MintError):
                _log.error("load failed unexpectedly", extra={"digest": digest, "error": trace_of(error)})
            elif not error.retryable:
                self._resident_set.note_end(digest, State.FAILED)
                for tenant_id, revision in pending.tenants().items():
                    self._resident_set.uses.fail(revision, tenant_id)
                    self._log.failed(digest, error, tenant_id=tenant_id, cause=pending.cause)
            self._forget(digest, None)
            pending.fail(error)
            return
        seconds = self._clock.monotonic() - began
        self._load_seconds.append(seconds)
        self._load_bytes.append(size_bytes)
        self._finish(pending, held, size_bytes, seconds)
        await self._trim()

    def _finish(self, pending: PendingLoad, held: HeldAdapter, size_bytes: int, seconds: float) -> None:
        digest, resident_set = pending.revision.digest, self._resident_set
        resident_set.residency = resident_set.residency.finish_load(
            digest,
            size_bytes=size_bytes,
            load_seconds=seconds,
            claims=sum(waiter.claims for waiter in pending.present()),
            now=self._clock.now(),
        )
        resident_set.enter(digest, held)
        metrics.ADAPTER_LOAD_SECONDS.observe(seconds)
        for tenant_id, revision in pending.tenants().items():
            resident_set.join(revision, tenant_id, cause=pending.cause, now=self._clock.now())
        pending.succeed()
        self._forget(digest, size_bytes)

    async def _trim(self) -> None:
        try:
            await self._staging.trim(keep={*self._resident_set.residency.residents, *self._pending})
        except MintError as error:  # the next load tries again
            level = logging.WARNING if error.retryable else logging.ERROR
            _log.log(level, "disk cache not trimmed", extra={"problem": str(error)})
        except Exception as error:  # noqa: BLE001  # as above
            _log.error("disk cache not trimmed", extra={"error": trace_of(error)})

    async def _bring_in(self, pending: PendingLoad) -> tuple[HeldAdapter, int]:
        staged = await self._staging.stage(pending.revision)
        victims = await self._make_room(staged)
        adapter = LoadedAdapter(digest=staged.digest, number=next(self._numbers), folder=staged.folder)
        began = self._clock.monotonic()
        self._on_engine.add(adapter.number)
        try:
            size_bytes = await self._engine.stage(adapter, victims=[victim.number for victim in victims])
        except BaseException:
            self._resident_set.residency = self._resident_set.residency.abandon(staged.digest)
            self._resident_set.freed.set()
            raise
        finally:
            self._on_engine.discard(adapter.number)
        metrics.LOAD_SECONDS.labels(stage="layout").observe(self._clock.monotonic() - began)
        return HeldAdapter(adapter=adapter, revision=pending.revision, rank=staged.rank), size_bytes

    async def _make_room(self, staged: StagedAdapter) -> list[LoadedAdapter]:
        """Reserve room and return whom it displaces; only a request waits for others to end, parked."""
        resident_set, digest = self._resident_set, staged.digest
        deadline = self._clock.monotonic() + self._limits.room_wait_seconds
        try:
            while not (room := resident_set.residency.plan_room(staged.host_bytes)).fits or self._is_behind(
                digest
            ):
                left = deadline - self._clock.monotonic()
                load = self.queue.load(digest)
                is_urgent = load is not None and load.priority is Priority.REQUEST
                if room.hopeless or not is_urgent or left <= 0:
                    raise self._overloaded("host memory of the engine")
                self._park(digest, staged.host_bytes)
                resident_set.freed.clear()
                await wait_for_event(resident_set.freed, clock=self._clock, seconds=left)
        finally:
            self._unpark(digest)
        # The load's own cause may be another tenant's request.
        victims = [resident_set.drop(digest, cause="room", reason="room") for digest in room.victims]
        resident_set.residency = resident_set.residency.reserve(staged.digest, staged.host_bytes)
        return victims

    def _is_behind(self, digest: Digest) -> bool:
        """Return whether room that is there is another parked load's."""
        ahead = takewhile(lambda load: load.digest != digest, self.queue.parked_in_order())
        plan = self._resident_set.residency.plan_room
        return any(plan(self._parked_bytes[load.digest]).fits for load in ahead)

    def _park(self, digest: Digest, host_bytes: int) -> None:
        if digest not in self._parked_bytes:
            self._parked_bytes[digest] = host_bytes
            self.queue = self.queue.park(digest, parked=True)
            self._wake.set()
            self._resident_set.freed.set()  # room that another one has left it

    def _unpark(self, digest: Digest) -> None:
        if self._parked_bytes.pop(digest, None) is not None:
            self.queue = self.queue.park(digest, parked=False)
            self._resident_set.freed.set()

    def _unclaim(self, digest: Digest) -> None:
        self._resident_set.residency = self._resident_set.residency.unclaim(digest, now=self._clock.now())
        self._resident_set.freed.set()

    def _forget(self, digest: Digest, size_bytes: int | None) -> None:
        del self._pending[digest]
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
            depth = sum(load.priority is priority for load in self.queue.waiting)
            metrics.QUEUE_DEPTH.labels(priority=priority.name.lower()).set(depth)
        now = self._clock.monotonic()
        asked_at = (self._pending[load.digest].asked_at for load in self.queue.waiting)
        metrics.QUEUE_OLDEST_SECONDS.set(now - min(asked_at, default=now))
