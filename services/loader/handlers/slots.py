"""Run activations: one at a time, in slices, within the stall budget.

Invariants: `core.slot_plan` and `core.stall_budget` decide; a request runs only on an adapter in a slot, so
at most ``slots`` distinct adapters are with the engine; no request waits for an adapter for ever; a lost
adapter is loaded into the engine again, once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import EngineRestarting, MintError, Unavailable
from mint_common.generation import RESTART_SECONDS
from mint_common.ids import Digest
from mint_common.runtime.clock import Clock
from mint_common.waiting import wait_for_event
from services.loader import metrics
from services.loader.core.residency import State
from services.loader.core.slot_plan import Grant, WaitingAdapter, next_drain_seconds, plan_slots
from services.loader.core.stall_budget import StallBudget, precedence_seconds
from services.loader.handlers.resident_set import ResidentSet
from services.loader.ports import Engine, LoadedAdapter

_IDLE_SECONDS = 3600.0
_DROP_SECONDS = 5.0
"""Within which an adapter that was counted out of its slot is out of there."""
_LOOK_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """Limits of filling slots: ``stall_share`` of the engine's time while others generate, in slices."""

    stall_share: float
    slice_ms: float
    stall_burst_ms: float = 2.0
    """Engine time that may be taken at once beyond the share: one slice."""
    drain_after_seconds: float = 0.5
    """Wait of a request for a slot before another adapter is evicted: short answers end within it."""
    precedence_ms: float = 12.0
    """Time that an adapter whose turn has come yields to pending first tokens: a few engine steps."""


@dataclass(slots=True, kw_only=True)
class _SlotQueue:
    """Requests waiting for one adapter's slot; the first arrived at ``since``."""

    since: float
    requests: list[asyncio.Future[None]] = field(default_factory=list)
    prewarms: list[asyncio.Future[None]] = field(default_factory=list)


class Slots:
    """Puts adapters of the host tier into slots, for requests that have claimed them."""

    def __init__(
        self,
        *,
        engine: Engine,
        resident_set: ResidentSet,
        limits: SlotLimits,
        clock: Clock,
        bring_back: Callable[[Digest], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._bring_back = bring_back
        self._resident_set = resident_set
        self._limits = limits
        self._clock = clock
        self._budget = StallBudget.full(
            share=limits.stall_share, burst_ms=limits.stall_burst_ms, now=clock.monotonic()
        )
        self._queues: dict[Digest, _SlotQueue] = {}
        self._draining: frozenset[Digest] = frozenset()
        self._activated_at = 0.0
        self._wake = asyncio.Event()

    @property
    def has_requests(self) -> bool:
        """Return whether a request waits for a slot."""
        return any(queue.requests for queue in self._queues.values())

    async def enter(self, digest: Digest) -> None:
        """Let one claiming request onto the engine, when its adapter has a slot and may take requests."""
        if self._is_open(digest):
            self._resident_set.residency = self._resident_set.residency.begin(digest)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(digest).requests.append(turn)
        self._wake.set()
        began = self._clock.monotonic()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.leave(digest)  # its turn had come just then
            raise
        finally:
            metrics.SLOT_WAIT_SECONDS.observe(self._clock.monotonic() - began)

    def leave(self, digest: Digest) -> None:
        """Take a request off the engine."""
        self._resident_set.residency = self._resident_set.residency.end(digest)
        if self._queues:
            self._wake.set()

    @contextmanager
    def first_token(self, *, warm: bool) -> Iterator[Callable[[], None]]:
        """Count a request that waits for its first token; see `Tiers.first_token`."""
        resident_set, is_waiting = self._resident_set, True

        def came() -> None:
            nonlocal is_waiting
            if is_waiting:
                is_waiting = False
                resident_set.first_tokens -= 1
                if self._queues:
                    self._wake.set()

        resident_set.first_tokens += 1
        resident_set.warm += warm
        try:
            yield came
        finally:
            came()
            resident_set.warm -= warm

    async def warm(self, digest: Digest) -> None:
        """Put an adapter into an empty slot, if there is one; return when it is there or no slot is empty."""
        resident = self._resident_set.residency.get(digest)
        if resident is None or resident.state is not State.STAGED:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(digest).prewarms.append(turn)
        self._wake.set()
        await turn

    async def run(self) -> None:
        """Activate until cancelled; remaining waiters then get EngineRestarting."""
        try:
            while True:
                self._wake.clear()
                await self._step()
        finally:
            for digest in list(self._queues):
                self._fail(digest, EngineRestarting(retry_after_seconds=RESTART_SECONDS))

    async def _step(self) -> None:
        """Do the next thing that can be done, or wait until something changes."""
        self._settle()
        waiting, now = self._waiting(), self._clock.monotonic()
        drain_after = self._limits.drain_after_seconds
        residency = self._resident_set.residency
        plan = plan_slots(residency, waiting, now=now, drain_after_seconds=drain_after)
        self._draining = plan.draining
        if plan.grant is None:
            self._dismiss_prewarms()
            seconds = next_drain_seconds(residency, waiting, now=now, drain_after_seconds=drain_after)
            await self._pause(seconds)
        elif (seconds := max(self._must_wait(), self._gives_way(plan.grant.digest))) > 0:
            await self._pause(seconds)
        else:
            await self._activate(plan.grant)

    async def _activate(self, grant: Grant) -> None:
        resident_set = self._resident_set
        adapter = resident_set.held[grant.digest].adapter
        victim = resident_set.held[grant.victim].adapter if grant.victim else None
        resident_set.residency = resident_set.residency.take_slot(grant.digest, victim=grant.victim)
        began = self._clock.monotonic()
        try:
            if not await self._copy(adapter, victim):
                await self._bring_back(grant.digest)
                if not await self._copy(adapter, victim):
                    raise Unavailable(what="the engine", problem="it has lost the adapter twice")
        except MintError as error:
            resident_set.residency = resident_set.residency.fail_slot(grant.digest)
            resident_set.freed.set()
            self._fail(grant.digest, error)
            return
        self._activated_at = self._clock.monotonic()
        metrics.LOAD_SECONDS.labels(stage="activate").observe(self._activated_at - began)
        resident_set.residency = resident_set.residency.finish_slot(grant.digest, now=self._activated_at)
        resident_set.freed.set()
        resident_set.measure()

    async def _copy(self, adapter: LoadedAdapter, victim: LoadedAdapter | None) -> bool:
        """Copy an adapter into a slot; return False when the engine has lost it."""
        began = self._clock.monotonic()
        while True:
            part = await self._engine.activate(adapter, victim=victim, slice_ms=self._limits.slice_ms)
            self._budget = self._budget.spend(part.stall_ms, now=self._clock.monotonic())
            metrics.STALL_SECONDS.observe(part.stall_ms / 1e3)
            if part.done or part.lost:
                return part.done
            if part.waits and self._clock.monotonic() - began > _DROP_SECONDS:
                raise Unavailable(what="the engine", problem="no slot became free")
            seconds = max(self._must_wait(), _LOOK_SECONDS if part.waits else 0.0)
            if seconds > 0:
                await self._clock.sleep(seconds)

    def _must_wait(self) -> float:
        """Return how long activation must wait for generating requests; none for an idle engine."""
        return self._budget.wait_seconds(self._clock.monotonic()) if self._resident_set.generating else 0.0

    def _gives_way(self, digest: Digest) -> float:
        """Return how long an adapter yields to pending first tokens."""
        return precedence_seconds(
            first_tokens=self._resident_set.first_tokens,
            warm=self._resident_set.warm,
            since=max(self._activated_at, self._queues[digest].since),
            now=self._clock.monotonic(),
            max_seconds=self._limits.precedence_ms / 1e3,
        )

    def _settle(self) -> None:
        """Let everybody in whose adapter takes requests; forget queues that are empty."""
        for digest, queue in list(self._queues.items()):
            queue.requests = [turn for turn in queue.requests if not turn.done()]
            queue.prewarms = [turn for turn in queue.prewarms if not turn.done()]
            if self._is_open(digest):
                for turn in queue.requests:
                    self._resident_set.residency = self._resident_set.residency.begin(digest)
                    turn.set_result(None)
                queue.requests = []
            resident = self._resident_set.residency.get(digest)
            if resident is None or resident.in_slot:
                _resolve(queue.prewarms)
            if not queue.requests and not queue.prewarms:
                del self._queues[digest]

    def _dismiss_prewarms(self) -> None:
        for queue in self._queues.values():
            _resolve(queue.prewarms)

    def _fail(self, digest: Digest, error: MintError) -> None:
        queue = self._queues.pop(digest, None)
        for turn in (*queue.requests, *queue.prewarms) if queue else ():
            if not turn.done():
                turn.set_exception(error)

    def _is_open(self, digest: Digest) -> bool:
        resident = self._resident_set.residency.get(digest)
        return resident is not None and resident.state is State.READY and digest not in self._draining

    def _queue(self, digest: Digest) -> _SlotQueue:
        queue = self._queues.get(digest)
        if queue is None:
            queue = self._queues[digest] = _SlotQueue(since=self._clock.monotonic())
        return queue

    def _waiting(self) -> list[WaitingAdapter]:
        return [
            WaitingAdapter(digest=digest, since=queue.since, takes_empty_only=not queue.requests)
            for digest, queue in self._queues.items()
            if digest in self._resident_set.residency.residents
        ]

    async def _pause(self, seconds: float | None) -> None:
        if seconds is None:
            await self._wake.wait()
        else:
            await wait_for_event(self._wake, clock=self._clock, seconds=min(seconds, _IDLE_SECONDS))


def _resolve(turns: list[asyncio.Future[None]]) -> None:
    for turn in turns:
        if not turn.done():
            turn.set_result(None)
    turns.clear()
