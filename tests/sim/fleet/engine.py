"""One simulated engine: real decisions, simulated seconds."""

from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from mint_common.errors import Overloaded
from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import ColdQueue, Priority, QueuedLoad
from services.loader.core.residency import Capacity, Residency, State
from services.loader.core.slot_plan import WaitingAdapter, next_drain_seconds, plan_slots
from services.loader.core.stall_budget import StallBudget
from tests.sim.fleet.model import Model, Request
from tests.sim.fleet.prefix_cache import PrefixCache
from tests.sim.fleet.world import World

_MEASURED_LOADS = 32
_MIN_SECONDS = 1e-6


class Disk:
    """A local disk cache: the least recently kept leaves. It outlives its engine."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Digest, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many adapters are here."""
        return len(self._kept)

    def holds(self, digest: Digest) -> bool:
        """Return whether an adapter is here."""
        return digest in self._kept

    def keep(self, digest: Digest) -> None:
        """Keep an adapter."""
        self._kept[digest] = None
        self._kept.move_to_end(digest)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


@dataclass(slots=True)
class _Line:
    since: float
    requests: list[Request] = field(default_factory=list)


class SimEngine:
    """An engine with its cold queue, host memory and slots. ``tell`` hears of every adapter that comes or
    goes; ``fail`` gets the requests that are refused or lost."""

    def __init__(
        self,
        name: str,
        model: Model,
        world: World,
        *,
        tell: Callable[["SimEngine", Digest, bool], None],
        fail: Callable[[Request], None],
    ) -> None:
        self.name = name
        self.disk = Disk(model.disk)
        self.model = model
        self.epoch = 0
        self.alive = True
        self.loads = 0
        self.running = 0
        self._world = world
        self._tell = tell
        self._fail = fail
        self._reset()

    def _reset(self) -> None:
        model = self.model
        capacity = Capacity(slots=model.slots, host=model.host, host_bytes=model.host_bytes)
        self.residency = Residency(capacity=capacity)
        self.queue = ColdQueue(
            depth=model.queue_depth, tenant_depth=model.tenant_depth, workers=model.load_workers
        )
        self.lines: dict[Digest, _Line] = {}
        self.waiting: dict[Digest, list[Request]] = {}
        self.flying: dict[Request, None] = {}
        self.draining: frozenset[Digest] = frozenset()
        self.load_seconds: deque[float] = deque(maxlen=_MEASURED_LOADS)
        self._budget = StallBudget.full(
            share=model.stall_share, burst_ms=model.stall_burst_ms, now=self._world.now
        )
        self._activating = False
        self._step_planned = False
        self._blocked: list[tuple[QueuedLoad, float]] = []
        self._cache = PrefixCache(model.kv_tokens)
        self.running = 0

    @property
    def open_requests(self) -> int:
        """Return how many requests wait or run here."""
        return len(self.flying)

    @property
    def open_tokens(self) -> int:
        """Return how many tokens those come to."""
        return sum(request.prompt_tokens + request.tokens for request in self.flying)

    def crash(self) -> None:
        """Lose everything but the disk; whoever waited or ran is told."""
        lost, self.alive = list(self.flying), False
        self.epoch += 1
        self._reset()
        for request in lost:
            self._fail(request)

    def restart(self) -> None:
        """Come back empty."""
        self.alive = True

    def prewarm(self, digest: Digest, tenant_id: TenantId) -> None:
        """Load an adapter ahead of need, if there is a place for the load."""
        if self.residency.get(digest) is not None or not self.alive:
            return
        with suppress(Overloaded):
            admission = self.queue.ask(
                digest,
                Priority.PREWARM,
                tenant_id=tenant_id,
                size_bytes=self.model.adapter_bytes,
                load_seconds=self.load_seconds,
            )
            self.queue = admission.queue
            self.waiting.setdefault(digest, [])
            if admission.shed is not None:
                self._refuse(admission.shed)
            self._start_loads()

    def arrive(self, request: Request) -> None:
        """Take a request; refuse it with Overloaded when its load has no place."""
        resident = self.residency.get(request.digest)
        if resident is not None and resident.state is not State.FETCHING:
            request.found = resident.tier.value
            self.flying[request] = None
            self.residency = self.residency.claim(request.digest, now=self._world.now)
            self._enter(request)
            return
        admission = self.queue.ask(
            request.digest,
            Priority.REQUEST,
            tenant_id=request.tenant_id,
            size_bytes=self.model.adapter_bytes,
            load_seconds=self.load_seconds,
            deadline=self._world.now + self.model.queue_wait_seconds,
        )
        self.queue = admission.queue
        self.flying[request] = None
        request.found = "disk" if self.disk.holds(request.digest) else "remote"
        if admission.shed is not None:
            self._refuse(admission.shed)
        self.waiting.setdefault(request.digest, []).append(request)
        self._later(self.model.queue_wait_seconds, self._expire)
        self._start_loads()

    def _later(self, seconds: float, action: Callable[..., None], *args: object) -> None:
        """Plan an action of this life of the engine."""
        self._world.after(seconds, self._act, self.epoch, action, args)

    def _act(self, epoch: int, action: Callable[..., None], args: tuple[object, ...]) -> None:
        if self.alive and self.epoch == epoch:
            action(*args)

    def _refuse(self, digest: Digest) -> None:
        for request in self.waiting.pop(digest):
            del self.flying[request]
            self._fail(request)

    def _expire(self) -> None:
        self.queue, late = self.queue.expire(self._world.now)
        for load in late:
            self._refuse(load.digest)

    def _start_loads(self) -> None:
        while True:
            self.queue, load = self.queue.start()
            if load is None:
                return
            size = 0 if self.disk.holds(load.digest) else self.model.adapter_bytes
            self._later(size / self.model.fetch_bytes_per_second, self._lay_out, load, self._world.now)

    def _lay_out(self, load: QueuedLoad, began: float) -> None:
        self.disk.keep(load.digest)
        room = self.residency.plan_room(self.model.adapter_bytes)
        if not room.fits:
            self._blocked.append((load, began))  # until a request ends
            return
        for victim in room.victims:
            self.residency = self.residency.evict(victim)
            self._tell(self, victim, False)
        self.residency = self.residency.reserve(load.digest, self.model.adapter_bytes)
        self._later(self.model.layout_seconds, self._finish_load, load, began)

    def _finish_load(self, load: QueuedLoad, began: float) -> None:
        requests = self.waiting.pop(load.digest)
        seconds = self._world.now - began
        self.loads += 1
        self.load_seconds.append(seconds)
        self.residency = self.residency.finish_load(
            load.digest,
            size_bytes=self.model.adapter_bytes,
            load_seconds=seconds,
            claims=len(requests),
            now=self._world.now,
        )
        self.queue = self.queue.finish(load.digest, size_bytes=self.model.adapter_bytes)
        self._tell(self, load.digest, True)
        for request in requests:
            self._enter(request)
        self._start_loads()

    def _enter(self, request: Request) -> None:
        resident = self.residency.residents[request.digest]
        if resident.state is State.READY and request.digest not in self.draining:
            self._begin(request)
            return
        line = self.lines.setdefault(request.digest, _Line(since=self._world.now))
        line.requests.append(request)
        self._plan_step(0.0)

    def _begin(self, request: Request) -> None:
        self.residency = self.residency.begin(request.digest)
        self.running += 1
        model = self.model
        crowd = max(1.0, self.running / model.sequences)
        request.cached_tokens = self._cache.read(request) if request.prompt else 0
        new_tokens = request.prompt_tokens - request.cached_tokens
        prefill_seconds = model.prefill_seconds + new_tokens * model.prompt_token_seconds
        request.first_at = self._world.now + prefill_seconds * crowd
        seconds = (prefill_seconds + request.tokens * model.token_seconds) * crowd
        self._later(seconds, self._end, request)

    def _end(self, request: Request) -> None:
        self.running -= 1
        del self.flying[request]
        request.done_at = self._world.now
        self.residency = self.residency.end(request.digest).unclaim(request.digest, now=self._world.now)
        if self._blocked:
            self._retry_blocked()
        if self.lines:
            self._plan_step(0.0)
        if request.then is not None:
            request.then(request)

    def _retry_blocked(self) -> None:
        blocked, self._blocked = self._blocked, []
        for load, began in blocked:
            self._lay_out(load, began)

    def _plan_step(self, seconds: float) -> None:
        if not self._step_planned:
            self._step_planned = True
            # At least a little later: rounding must not stop time.
            self._later(max(seconds, _MIN_SECONDS), self._step)

    def _step(self) -> None:
        self._step_planned = False
        if self._activating:
            return
        self._settle()
        now, drain = self._world.now, self.model.drain_seconds
        waiting = [WaitingAdapter(digest=digest, since=line.since) for digest, line in self.lines.items()]
        plan = plan_slots(self.residency, waiting, now=now, drain_after_seconds=drain)
        self.draining = plan.draining
        if plan.grant is None:
            seconds = next_drain_seconds(self.residency, waiting, now=now, drain_after_seconds=drain)
            if seconds is not None:
                self._plan_step(seconds)
            return
        pause = self._budget.wait_seconds(now) if self.running else 0.0
        if pause > 0:
            self._plan_step(pause)
            return
        grant = plan.grant
        self.residency = self.residency.take_slot(grant.digest, victim=grant.victim)
        self._activating = True
        self._later(self.model.activate_seconds, self._activated, grant.digest)

    def _activated(self, digest: Digest) -> None:
        now = self._world.now
        self._activating = False
        self._budget = self._budget.spend(1000 * self.model.activate_seconds, now=now)
        self.residency = self.residency.finish_slot(digest, now=now)
        self._settle()
        self._plan_step(0.0)

    def _settle(self) -> None:
        """Let onto the engine whose adapter is in a slot."""
        for digest in list(self.lines):
            resident = self.residency.residents[digest]
            if resident.state is State.READY and digest not in self.draining:
                for request in self.lines.pop(digest).requests:
                    self._begin(request)
