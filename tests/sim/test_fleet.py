"""Promises of a fleet under traffic and failures, on simulated time and with the real decisions."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from mint_common.client.prefixes import PrefixMap
from mint_common.client.routing import Nearness, ResidencyMap
from mint_common.ids import EngineId, TenantId
from services.loader.core.residency import State
from tests.sim.fleet.conversations import Talk, converse, hit_ratio, imbalance
from tests.sim.fleet.engine import SimEngine
from tests.sim.fleet.fleet import MAX_RETRIES, RETRY_SECONDS, Fleet
from tests.sim.fleet.model import Model, Request
from tests.sim.fleet.traffic import Zipf, name_digest, poisson

SMALL = Model(
    slots=4,
    host=12,
    disk=64,
    sequences=16,
    adapter_bytes=1_000_000,
    fetch_bytes_per_second=50e6,
    layout_seconds=0.01,
    activate_seconds=0.002,
    token_seconds=0.002,
    prefill_seconds=0.02,
    queue_depth=32,
    tenant_depth=24,
    queue_wait_seconds=5.0,
)
MAX_SECONDS = (MAX_RETRIES + 1) * (RETRY_SECONDS + SMALL.queue_wait_seconds) + 30.0


def check_engine(engine: SimEngine) -> None:
    """Assert what must hold at any moment."""
    residency, model = engine.residency, engine.model
    assert residency.used_bytes <= model.host_bytes
    assert len(residency.residents) <= model.host
    assert residency.slots_used <= model.slots
    running = [r for r in residency.residents.values() if r.running]
    assert len(running) <= model.slots
    assert all(r.state is State.READY for r in running)
    assert len(engine.queue.waiting) <= model.queue_depth
    assert len(engine.queue.running) <= model.load_workers
    jobs = [job.digest for job in (*engine.queue.waiting, *engine.queue.running)]
    assert len(jobs) == len(set(jobs)), "one load a revision"
    assert set(engine.queue.served) == {
        job.tenant_id for job in (*engine.queue.waiting, *engine.queue.running)
    }
    assert set(engine.lines) <= set(residency.residents)
    assert set(engine.waiting) == set(jobs)
    assert len(engine.disk) <= model.disk


def size_of(engine: SimEngine) -> int:
    """Return how much an engine keeps."""
    kept = (engine.residency.residents, engine.queue.waiting, engine.queue.served, engine.lines, engine.disk)
    return sum(map(len, kept))


def run_checked(fleet: Fleet, seconds: float, *, every: float = 0.5) -> None:
    """Let time pass, and look at every engine again and again."""
    end = fleet.world.now + seconds
    while fleet.world.now < end:
        fleet.world.run(min(end, fleet.world.now + every))
        for engine in fleet.engines.values():
            check_engine(engine)


def settle(fleet: Fleet) -> None:
    """Let everything end that has begun; it must, within bounds."""
    deadline = fleet.world.now + MAX_SECONDS
    while fleet.open_requests and fleet.world.now < deadline:
        run_checked(fleet, 5.0, every=1.0)
    assert not fleet.open_requests


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_capacity_holds_and_every_request_ends_while_engines_die(seed: int, skew: float) -> None:
    rng = random.Random(seed)
    fleet = Fleet(model=SMALL, count=6)
    fleet.submit(poisson(Zipf(1_000_000, skew, rng), rng, per_second=60, seconds=20, tokens=8))
    fleet.fail_engines(rng, every_seconds=4.0, down_seconds=3.0, until=20.0)
    run_checked(fleet, 20.0)
    settle(fleet)
    refused = sum(request.refused for request in fleet.requests)
    assert refused <= 0.02 * len(fleet.requests)


def test_the_same_seed_gives_the_same_history() -> None:
    def history(seed: int) -> list[tuple[float | None, str]]:
        rng = random.Random(seed)
        fleet = Fleet(model=SMALL, count=4)
        fleet.submit(poisson(Zipf(10_000, 1.0, rng), rng, per_second=50, seconds=8, tokens=8))
        fleet.fail_engines(rng, every_seconds=2.0, down_seconds=1.0, until=8.0)
        settle(fleet)
        return [(request.done_at, request.found) for request in fleet.requests]

    assert history(7) == history(7)
    assert history(7) != history(8)


def test_a_flood_of_cold_names_delays_another_tenant_by_a_bounded_number_of_loads() -> None:
    fleet = Fleet(model=SMALL, count=1)
    flood = [
        Request(tenant_id=TenantId("flood"), digest=name_digest(number), tokens=8, at=0.001 * number)
        for number in range(2000)
    ]
    alone = Request(tenant_id=TenantId("alone"), digest=name_digest(10**6), tokens=8, at=1.0)
    fleet.submit([*flood, alone])
    settle(fleet)
    assert not alone.refused
    assert alone.retries == 0
    assert alone.first_seconds < 2.0
    answered = [request for request in flood if not request.refused]
    assert len(answered) > 100, "and the flood is served as far as there is room"


def test_one_revision_is_loaded_once_however_many_want_it() -> None:
    fleet = Fleet(model=SMALL, count=4, hot_load=10**9)
    fleet.submit(
        Request(tenant_id=TenantId("t"), digest=name_digest(1), tokens=4, at=0.0001 * number)
        for number in range(1000)
    )
    settle(fleet)
    assert sum(engine.loads for engine in fleet.engines.values()) == 1
    assert not any(request.refused for request in fleet.requests)


def test_a_hot_adapter_spreads_and_cold_ones_stay_on_one_engine_each() -> None:
    rng = random.Random(5)
    fleet = Fleet(model=SMALL, count=8)
    hot = [
        Request(tenant_id=TenantId("hot"), digest=name_digest(0), tokens=64, at=rng.uniform(0, 10))
        for _ in range(3000)
    ]
    cold = list(poisson(Zipf(40, 0.0, rng), rng, per_second=20, seconds=10, tokens=4, start=0.5))
    cold = [request for request in cold if request.digest != name_digest(0)]
    fleet.submit([*hot, *cold])
    run_checked(fleet, 10.0)
    settle(fleet)
    homes = Counter(request.tried[-1] for request in hot)
    assert len(homes) > 1
    engines_of = {digest: set() for digest in {request.digest for request in cold}}
    for request in cold:
        engines_of[request.digest].add(request.tried[-1])
    alone = sum(len(engines) == 1 for engines in engines_of.values())
    assert alone >= 0.6 * len(engines_of)


def test_nothing_grows_with_the_names_ever_seen() -> None:
    rng = random.Random(1)
    fleet = Fleet(model=SMALL, count=2, residency=ResidencyMap(max_per_engine=32))
    sizes = []
    for _ in range(4):
        start = fleet.world.now
        fleet.submit(poisson(Zipf(10**6, 0.0, rng), rng, per_second=20, seconds=15, tokens=4, start=start))
        run_checked(fleet, 15.0)
        settle(fleet)
        seen = {request.digest for request in fleet.requests}
        kept = sum(
            fleet.residency.nearness(EngineId(name), digest) is not Nearness.ABSENT
            for name in fleet.engines
            for digest in seen
        )
        sizes.append(kept + sum(size_of(engine) for engine in fleet.engines.values()))
    assert len({request.digest for request in fleet.requests}) > 1000
    assert sizes[-1] <= sizes[0]


TALK = Talk(
    policies=16,
    of_policy=8,
    turns=6,
    instructions=64,
    asked=32,
    answered=32,
    pause_seconds=0.1,
    begin_within_seconds=1.0,
)
TALKED = replace(SMALL, slots=16, host=32, prompt_token_seconds=0.0002, kv_tokens=20_000)


@pytest.mark.parametrize("seed", range(3))
def test_conversations_find_what_was_read_and_no_engine_has_much_more_than_its_share(seed: int) -> None:
    def talked(model: Model, count: int, prefixes: PrefixMap | None = None) -> Fleet:
        fleet = Fleet(model=model, count=count, prefixes=prefixes)
        converse(fleet, TALK, random.Random(seed))
        assert all(request.done_at is not None for request in fleet.requests)
        return fleet

    by_prefix = talked(TALKED, 4, PrefixMap(secret=b"test"))
    alone = talked(replace(TALKED, kv_tokens=80_000, sequences=64), 1)
    assert hit_ratio(by_prefix) >= 0.9 * hit_ratio(alone)
    assert imbalance(by_prefix) <= 1.3


def test_a_publication_is_loaded_by_its_homes_and_found_there() -> None:
    fleet = Fleet(model=SMALL, count=8, homes=2)
    for number in range(40):
        fleet.publish(name_digest(number), TenantId("t"), at=0.2 * number)
        at = 0.2 * number + 1.0
        request = Request(tenant_id=TenantId("t"), digest=name_digest(number), tokens=4, at=at)
        fleet.submit([request])
    settle(fleet)
    assert fleet.prewarms == 2 * 40
    assert {request.found for request in fleet.requests} <= {"host", "slot"}
    assert all(engine.loads < 40 for engine in fleet.engines.values())
