"""Many engines behind one router that knows only what it has heard."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mint_common.client.prefixes import Beginnings, EngineRun, PrefixMap
from mint_common.client.routing import Nearness, Option, ResidencyMap, order_engines
from mint_common.errors import Overloaded
from mint_common.generation import AdapterStatus
from mint_common.homes import homes_of
from mint_common.ids import BaseName, Digest, EngineId, TenantId
from tests.sim.fleet.engine import SimEngine
from tests.sim.fleet.model import Model, Request
from tests.sim.fleet.world import World

NEWS_SECONDS = 0.02
ROUTES = 3
"""How many engines a refused request is tried on: the routing looks no further."""
RETRY_SECONDS = 1.0
MAX_RETRIES = 20
BASE = BaseName("simulated")


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Engines, their disks, and a router in front of them."""

    model: Model
    count: int
    hot_load: int = 16
    homes: int = 2
    prefixes: PrefixMap | None = None
    world: World = field(default_factory=World)
    engines: dict[str, SimEngine] = field(init=False)
    residency: ResidencyMap = field(default_factory=ResidencyMap)
    requests: list[Request] = field(default_factory=list)
    prewarms: int = 0

    def __post_init__(self) -> None:
        """Make the engines."""
        names = [f"engine-{number}" for number in range(self.count)]
        self.engines = {
            name: SimEngine(name, self.model, self.world, tell=self._tell, fail=self._failed)
            for name in names
        }
        for engine in self.engines.values():
            self.residency.correct(EngineId(engine.name), "0", [])

    def submit(self, requests: Iterable[Request]) -> None:
        """Have requests arrive at their times."""
        for request in requests:
            self.requests.append(request)
            self.world.after(request.at - self.world.now, self._route, request)

    def publish(self, digest: Digest, tenant_id: TenantId, *, at: float) -> None:
        """Have each engine hear of a new revision, and those that are its homes load it."""
        self.world.after(at - self.world.now, self._hear_of, digest, tenant_id)

    def _hear_of(self, digest: Digest, tenant_id: TenantId) -> None:
        alive = [EngineId(engine.name) for engine in self.engines.values() if engine.alive]
        for name in homes_of(digest, alive, count=self.homes):
            self.prewarms += 1
            self.engines[name].prewarm(digest, tenant_id)

    def fail_engines(
        self, rng: random.Random, *, every_seconds: float, down_seconds: float, until: float
    ) -> None:
        """Kill engines at random times; each comes back empty."""
        at = rng.expovariate(1 / every_seconds)
        while at < until:
            name = rng.choice(list(self.engines))
            self.world.after(at, self._kill, name, down_seconds)
            at += rng.expovariate(1 / every_seconds)

    @property
    def open_requests(self) -> Sequence[Request]:
        """Return what is neither answered nor refused."""
        return [each for each in self.requests if each.done_at is None and not each.refused]

    def _route(self, request: Request) -> None:
        alive = [engine for engine in self.engines.values() if engine.alive]
        prompt = self._beginnings(request)
        known = self.prefixes.known_bytes(prompt) if self.prefixes and prompt else {}
        options = [self._option(engine, request.digest, known) for engine in alive]
        for option in order_engines(options, request.digest, hot_load=self.hot_load)[:ROUTES]:
            engine = self.engines[option.name]
            try:
                engine.arrive(request)
            except Overloaded:
                continue
            request.tried.append(engine.name)
            if self.prefixes is not None and prompt is not None:
                self.prefixes.note(prompt, _run(engine))
            return
        self._again(request)

    def _beginnings(self, request: Request) -> Beginnings | None:
        if self.prefixes is None or not request.prompt:
            return None
        return self.prefixes.beginnings(request.tenant_id, BASE, request.digest, request.prompt)

    def _option(self, engine: SimEngine, digest: Digest, known: Mapping[EngineRun, int]) -> Option:
        nearness = self.residency.nearness(EngineId(engine.name), digest)
        return Option(
            name=engine.name,
            nearness=nearness,
            load=engine.open_requests,
            tokens=engine.open_tokens if self.prefixes is not None else 0,
            known_bytes=known.get(_run(engine), 0),
        )

    def _failed(self, request: Request) -> None:
        request.first_at = None
        self._again(request)

    def _again(self, request: Request) -> None:
        """Come back as a polite client does, a bounded number of times."""
        request.retries += 1
        if request.retries > MAX_RETRIES:
            request.refused = True
        else:
            self.world.after(RETRY_SECONDS, self._route, request)

    def _tell(self, engine: SimEngine, digest: Digest, came: bool) -> None:  # a callback
        name, epoch = EngineId(engine.name), str(engine.epoch)

        def hear() -> None:
            if came:
                self.residency.note(name, epoch, digest, Nearness.SLOT)
            else:
                self.residency.note(name, epoch, digest, Nearness.STORED)

        self.world.after(NEWS_SECONDS, hear)

    def _kill(self, name: str, down_seconds: float) -> None:
        engine = self.engines[name]
        if not engine.alive or sum(each.alive for each in self.engines.values()) == 1:
            return
        self.residency.forget(EngineId(name))
        engine.crash()

        def back() -> None:
            engine.restart()
            nothing: list[AdapterStatus] = []
            self.residency.correct(EngineId(name), str(engine.epoch), nothing)

        self.world.after(down_seconds, back)


def _run(engine: SimEngine) -> EngineRun:
    return f"{engine.name}/{engine.epoch}"
