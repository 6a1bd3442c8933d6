"""Events load ahead of need; what can be repaired is tried again, what can't is not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from mint_common.claims import Claim, RevisionRef
from mint_common.events import AdapterWanted, AliasMoved, RevisionPublished, RevisionRestored
from mint_common.homes import homes_of
from mint_common.ids import EngineId, PolicyId, TenantId
from mint_common.members import Member
from mint_common.runtime.dispatch import Dispatcher, publish_event
from services.loader.handlers.events import Handlers
from services.loader.handlers.homes import Homes
from services.loader.handlers.prewarms import Prewarms
from tests.testing.adapters import make_base_facts
from tests.testing.bus_memory import MemoryBus

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
BASE = make_base_facts().name
TENANT = TenantId("t")


def published(revision: RevisionRef) -> RevisionPublished:
    return RevisionPublished(
        tenant_id=TENANT,
        base=BASE,
        export_id=f"e{revision.number}",
        policy_id=PolicyId("p"),
        job_id=None,
        wave_id=None,
        revision=revision,
        parent=None,
        step=1,
        metrics={},
    )


def moved(revision: RevisionRef) -> AliasMoved:
    return AliasMoved(
        tenant_id=TENANT,
        base=BASE,
        policy_id=PolicyId("p"),
        alias="prod",
        sequence=1,
        previous=None,
        revision=revision,
        actor="a",
        reason="",
    )


def wanted(revision: RevisionRef) -> AdapterWanted:
    return AdapterWanted(tenant_id=TENANT, base=BASE, request_id="r", revision=revision, priority="prefetch")


@asynccontextmanager
async def running(bench: Any, *, at_once: int = 2, homes: Homes | None = None) -> AsyncIterator[Handlers]:
    prewarms = Prewarms(bench.tiers, bench.clock, at_once=at_once)
    work = asyncio.create_task(prewarms.run())
    try:
        yield Handlers(prewarms, bench.quarantined, homes or bench.homes())
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_each_event_loads_its_adapter_once(make_bench: Make) -> None:
    bench = await make_bench()
    first, second, third = [await bench.revision(seed) for seed in range(3)]
    async with running(bench, at_once=1) as handlers:
        assert await handlers.on_revision_published(published(first)) == ()
        assert await handlers.on_alias_moved(moved(second)) == ()
        assert await handlers.on_adapter_wanted(wanted(third)) == ()
        assert await handlers.on_adapter_wanted(wanted(first)) == ()
        await until(lambda: len(bench.kinds()) == 3)
        await asyncio.sleep(0.01)
    assert set(bench.engine.loads) == {first.digest, second.digest, third.digest}
    assert bench.kinds() == ["adapter.loaded"] * 3


async def test_of_a_week_of_publications_the_newest_of_each_policy_is_loaded(make_bench: Make) -> None:
    bench = await make_bench(host=9, slots=9, depth=64)
    old = [await bench.revision(seed) for seed in range(6)]
    bus = MemoryBus(bench.clock)
    prewarms = Prewarms(bench.tiers, bench.clock, at_once=8)
    handlers = Handlers(prewarms, bench.quarantined, bench.homes())

    def dispatcher(durable: str) -> Dispatcher:
        made = Dispatcher(bus=bus, ledger=None, durable=durable, clock=bench.clock, start="new")
        made.on(RevisionPublished, handlers.on_revision_published)
        made.on(RevisionRestored, handlers.on_revision_restored)
        return made

    async with bus.subscribe(durable="loader-known", subjects=["mint.revision.*.*.*"]):
        pass  # an engine that was here before, and is down
    for revision in old:
        await publish_event(bus, published(revision), cause="test", now=0.0)
    bad = await bench.revision(9)
    bench.quarantined.note(bad.digest, tenant_id=TENANT, cause="req")
    restored = RevisionRestored(
        tenant_id=TENANT, base=BASE, policy_id=PolicyId("q"), digest=bad.digest, revision=bad, sequence=2
    )
    await publish_event(bus, restored, cause="test", now=0.0)
    work = [asyncio.create_task(dispatcher(durable).run()) for durable in ("loader-known", "loader-new")]
    for _ in range(100):
        await asyncio.sleep(0)
    bench.quarantined.check(bad.digest)  # nothing is loaded yet, and it runs again
    work.append(asyncio.create_task(prewarms.run()))
    await until(lambda: bench.tiers.status(old[-1].digest).readiness == "ready")
    assert bench.engine.loads == [old[-1].digest]
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_tenant_s_prewarms_leave_a_turn_to_others(make_bench: Make) -> None:
    bench = await make_bench(host=9, slots=9, workers=4, depth=64)
    bench.engine.gate.clear()
    async with running(bench, at_once=4) as handlers:
        for seed in range(8):
            await handlers.on_adapter_wanted(wanted(await bench.revision(seed)))
        await until(lambda: len(bench.engine.loads) == 3)
        other = await bench.revision(8)
        await handlers.on_adapter_wanted(replace(wanted(other), tenant_id=TenantId("other")))
        await until(lambda: other.digest in bench.engine.loads)
        assert len(bench.engine.loads) == 4
        bench.engine.gate.set()
        await until(lambda: len(bench.engine.loads) == 9)


async def test_an_adapter_that_can_never_load_is_refused_once(make_bench: Make) -> None:
    bench = await make_bench()
    revision, other = await bench.revision(0), await bench.revision(1)
    gone = Claim(uri="revisions/p/none/mint_manifest.json", sha256="0" * 64, size_bytes=1)
    lost = RevisionRef(digest=revision.digest, number=1, manifest=gone)
    async with running(bench) as handlers:
        await handlers.on_adapter_wanted(wanted(lost))
        await handlers.on_adapter_wanted(wanted(other))
        await until(lambda: len(bench.kinds()) == 2)
        await bench.clock.advance(60.0)
    assert sorted(bench.kinds()) == ["adapter.failed", "adapter.loaded"]


async def test_a_prewarm_that_finds_no_room_is_tried_again_unless_a_newer_came(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second, third = [await bench.revision(seed) for seed in range(3)]
    async with running(bench) as handlers:
        async with bench.tiers.hold(first, tenant_id=TENANT, cause="req"):
            await handlers.on_revision_published(published(second))
            await until(lambda: bench.cache.holds(second.digest))
            await bench.clock.advance(1.0)
            await handlers.on_revision_published(published(third))
            await until(lambda: bench.cache.holds(third.digest))
        await bench.clock.advance(2.0)
        await until(lambda: bench.tiers.status(third.digest).readiness == "ready")
    assert bench.engine.loads == [first.digest, third.digest]


def fleet(*names: str) -> list[Member]:
    return [
        Member(
            kind="loader",
            member_id=name,
            epoch="run",
            url=f"http://{name}:1",
            base=BASE,
            state="ready",
            silent_seconds=0.0,
        )
        for name in names
    ]


async def test_an_engine_loads_ahead_what_it_is_a_home_of(make_bench: Make) -> None:
    bench = await make_bench(host=16, slots=16, depth=64)
    revisions = [await bench.revision(seed) for seed in range(12)]
    homes = bench.homes(count=1)
    homes.follow_members(fleet("e", "other"))
    own = {each.digest for each in revisions if homes_of(each.digest, ["e", "other"], count=1) == ("e",)}
    assert 0 < len(own) < len(revisions)
    async with running(bench, homes=homes) as handlers:
        for number, revision in enumerate(revisions):
            event = replace(published(revision), policy_id=PolicyId(f"p{number}"))
            await handlers.on_revision_published(event)
        await until(lambda: {each for each in own if bench.tiers.tier(each) == "slot"} == own)
        await asyncio.sleep(0.01)
    assert set(bench.engine.loads) == own


async def test_an_engine_whose_requests_use_a_revision_is_a_home_of_the_next_one(make_bench: Make) -> None:
    bench = await make_bench(host=16, slots=16, depth=64)
    others = [f"other-{number}" for number in range(50)]
    found = [await bench.revision(seed) for seed in range(12)]
    engines = [EngineId("e"), *map(EngineId, others)]
    first, second, third = [each for each in found if "e" not in homes_of(each.digest, engines, count=1)][:3]
    homes = bench.homes(count=1)
    homes.follow_members(fleet(*others))
    async with running(bench, homes=homes) as handlers:
        await handlers.on_revision_published(published(first))
        async with bench.tiers.hold(first, tenant_id=TENANT, cause="req"):  # it spilled over to this engine
            pass
        await handlers.on_revision_published(published(second))
        await until(lambda: bench.tiers.tier(second.digest) == "slot")
        await handlers.on_revision_published(published(third))  # the second one was loaded and not used
        await asyncio.sleep(0.01)
    assert bench.engine.loads == [first.digest, second.digest]


async def test_until_the_members_are_known_an_engine_is_a_home_of_all(make_bench: Make) -> None:
    bench = await make_bench()
    homes = bench.homes(count=1)
    revisions = [await bench.revision(seed) for seed in range(12)]
    assert all(homes.is_home(each.digest, name=each.number) for each in revisions)
    homes.follow_members([])  # it starts: its own row may not be there yet
    assert all(homes.is_home(each.digest, name=each.number) for each in revisions)
