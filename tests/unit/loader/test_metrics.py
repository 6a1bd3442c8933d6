"""What an operator sees: loads by stage, queue by priority, hits by tier, evictions and stalls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import REGISTRY

from mint_common.ids import TenantId
from services.loader.core.cold_queue import Priority

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
TENANT = TenantId("t")
STAGES = ("queue", "fetch", "check", "layout", "activate")


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"mint_loader_{name}", labels) or 0.0


def loads(stage: str) -> float:
    return sample("load_seconds_count", stage=stage)


def depths() -> dict[Priority, float]:
    return {each: sample("queue_depth", priority=each.name.lower()) for each in Priority}


async def use(bench: Any, revision: Any) -> None:
    async with bench.tiers.hold(revision, tenant_id=TENANT, cause="req"):
        pass


async def test_a_load_is_counted_in_each_of_its_stages_and_each_request_by_its_tier(make_bench: Make) -> None:
    bench = await make_bench(slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    stages = {stage: loads(stage) for stage in STAGES}
    tiers = {tier: sample("hits_total", tier=tier) for tier in ("remote", "slot", "host", "disk")}
    stalls, evictions = sample("stall_seconds_count"), sample("evictions_total")
    for revision in (first, first, second, first):  # nowhere, in its slot, nowhere, out of its slot
        await use(bench, revision)
    await bench.tiers.evict(first.digest, tenant_id=TENANT, cause="test")
    await use(bench, first)
    grown = {stage: loads(stage) - before for stage, before in stages.items()}
    assert grown == {"queue": 3, "fetch": 2, "check": 2, "layout": 3, "activate": 4}
    found = {tier: sample("hits_total", tier=tier) - before for tier, before in tiers.items()}
    assert found == {"remote": 2, "slot": 1, "host": 1, "disk": 1}
    assert sample("stall_seconds_count") - stalls == 4
    assert sample("evictions_total") - evictions == 1
    assert sample("residents") == 2
    assert sample("slots_used") == 1


async def test_what_waits_is_counted_by_its_priority(make_bench: Make) -> None:
    bench = await make_bench(workers=1, depth=8, host=8)
    bench.engine.gate.clear()
    waits = {each: sample("queue_wait_seconds_count", priority=each.name.lower()) for each in Priority}
    busy = asyncio.create_task(use(bench, await bench.revision(0)))
    while not bench.engine.loads:
        await asyncio.sleep(0)
    tasks = [busy, asyncio.create_task(use(bench, await bench.revision(1)))]
    for seed, priority in ((2, Priority.PREWARM), (3, Priority.PREFETCH), (4, Priority.PREFETCH)):
        warming = bench.tiers.prewarm(
            await bench.revision(seed), tenant_id=TENANT, cause="test", priority=priority
        )
        tasks.append(asyncio.create_task(warming))
    async with asyncio.timeout(20):
        while depths() != {Priority.REQUEST: 1, Priority.PREWARM: 1, Priority.PREFETCH: 2}:
            await asyncio.sleep(0)
    await bench.clock.advance(3.0)
    assert sample("queue_oldest_seconds") == 3.0
    bench.engine.gate.set()
    await asyncio.gather(*tasks)
    assert set(depths().values()) == {0}
    assert sample("queue_oldest_seconds") == 0
    grown = {each: sample("queue_wait_seconds_count", priority=each.name.lower()) for each in Priority}
    assert {each: grown[each] - waits[each] for each in Priority} == {
        Priority.REQUEST: 2,
        Priority.PREWARM: 1,
        Priority.PREFETCH: 2,
    }
