"""Equal bytes of two tenants are one adapter on the engine, and neither can tell or touch the other's use."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from mint_common.claims import RevisionRef
from mint_common.errors import NotFound, Overloaded, PreconditionFailed
from mint_common.generation import AdapterStatus, EngineLoad
from mint_common.ids import Digest, EngineId, TenantId
from mint_common.runtime.postgres import migrate, open_pool
from services.gateway.core.mint.residency import load_of_tenant
from services.loader.adapters.working_set_postgres import PostgresWorkingSet
from services.loader.core.working_set import WorkingSetEntry, hottest_first
from tests.testing.factories import ADAPTER_STATUS
from tests.unit.loader.conftest import Bench, make_bench

__all__ = ["make_bench"]
A, B = TenantId("a"), TenantId("b")
Make = Any


async def use(bench: Bench, revision: RevisionRef, tenant_id: TenantId) -> None:
    async with bench.tiers.hold(revision, tenant_id=tenant_id, cause="req"):
        pass


async def prewarm(bench: Bench, revision: RevisionRef, tenant_id: TenantId) -> AdapterStatus:
    status: AdapterStatus = await bench.tiers.prewarm(revision, tenant_id=tenant_id, cause="evt")
    return status


async def test_a_neighbours_use_is_told_nobody(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    before = bench.tiers.status(revision.digest, tenant_id=A)
    await use(bench, revision, B)
    bench.tiers.pin(revision.digest, tenant_id=B, pinned=True)
    assert bench.tiers.status(revision.digest, tenant_id=A) == before
    assert bench.tiers.statuses(tenant_id=A) == []
    assert bench.tiers.status(revision.digest).tier == "slot"
    assert {event.tenant_id for event in bench.announced.events} == {B}


async def test_a_first_use_looks_like_a_load_though_the_bytes_were_there(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    await use(bench, revision, B)
    status = await prewarm(bench, revision, A)
    assert (status.tier, status.in_flight, status.pinned) == ("slot", 0, False)
    assert bench.engine.loads == [revision.digest], "one slot serves both"
    assert [(event.type, event.tenant_id) for event in bench.announced.events] == [
        ("adapter.loaded", B),
        ("adapter.loaded", A),
    ]


async def test_a_pin_is_its_tenants_alone(make_bench: Make) -> None:
    bench = await make_bench(host=2)
    shared = await bench.revision(0)
    await use(bench, shared, A)
    with pytest.raises(NotFound):
        bench.tiers.pin(shared.digest, tenant_id=B, pinned=False)
    await use(bench, shared, B)
    assert bench.tiers.pin(shared.digest, tenant_id=A, pinned=True).pinned
    assert not bench.tiers.pin(shared.digest, tenant_id=B, pinned=False).pinned
    assert bench.tiers.status(shared.digest, tenant_id=A).pinned
    for seed in (1, 2, 3):
        await use(bench, await bench.revision(seed), B)
    assert bench.tiers.status(shared.digest, tenant_id=A).pinned, "it outlasts what needs room"


async def test_an_eviction_takes_nothing_from_a_neighbour(make_bench: Make) -> None:
    bench = await make_bench()
    shared = await bench.revision(0)
    await use(bench, shared, A)
    await use(bench, shared, B)
    bench.tiers.pin(shared.digest, tenant_id=B, pinned=True)
    async with bench.tiers.hold(shared, tenant_id=B, cause="req"):
        status = await bench.tiers.evict(shared.digest, tenant_id=A, cause="admin")
    assert (status.tier, status.state, status.readiness) == ("stored", "evicted", "registered")
    assert bench.tiers.status(shared.digest, tenant_id=B).pinned
    await use(bench, shared, B)
    assert bench.engine.loads == [shared.digest], "B's adapter has not left"
    with pytest.raises(NotFound):
        await bench.tiers.evict(shared.digest, tenant_id=A, cause="admin")
    assert [(e.type, e.tenant_id) for e in bench.announced.events][2:] == [("adapter.evicted", A)]


async def test_a_tenant_sees_its_own_wait_for_a_load_and_not_another_s(make_bench: Make) -> None:
    bench = await make_bench()
    first, shared = await bench.revision(0), await bench.revision(1)
    bench.engine.gate.clear()
    waiting = [asyncio.create_task(use(bench, first, A)), asyncio.create_task(prewarm(bench, shared, A))]
    await asyncio.sleep(0)
    assert bench.tiers.status(shared.digest, tenant_id=B).queued_at is None
    waiting.append(asyncio.create_task(use(bench, shared, B)))
    await asyncio.sleep(0)
    told = [bench.tiers.status(shared.digest, tenant_id=each) for each in (A, B)]
    assert [each.queued_for for each in told] == ["prewarm", "request"]
    assert [each.queue_position for each in told] == [0, 0]
    bench.engine.gate.set()
    await asyncio.gather(*waiting)
    assert {bench.tiers.status(shared.digest, tenant_id=each).queued_for for each in (A, B)} == {None}


async def test_the_last_who_uses_an_adapter_takes_it_off_the_engine(make_bench: Make) -> None:
    bench = await make_bench()
    shared = await bench.revision(0)
    for tenant_id in (A, B):
        await use(bench, shared, tenant_id)
    for tenant_id in (A, B):
        await bench.tiers.evict(shared.digest, tenant_id=tenant_id, cause="admin")
    assert bench.engine.host == {}


async def test_a_refusal_to_evict_names_the_tenants_own_use_only(make_bench: Make) -> None:
    bench = await make_bench()
    shared = await bench.revision(0)
    async with (
        bench.tiers.hold(shared, tenant_id=A, cause="req"),
        bench.tiers.hold(shared, tenant_id=B, cause="req"),
    ):
        with pytest.raises(PreconditionFailed, match="in use by 1 requests"):
            await bench.tiers.evict(shared.digest, tenant_id=A, cause="admin")


async def test_a_refused_load_leaves_no_trace(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = [await bench.revision(seed) for seed in (0, 1)]
    async with bench.tiers.hold(first, tenant_id=A, cause="req"):
        with pytest.raises(Overloaded):
            await prewarm(bench, second, B)
    assert bench.tiers.statuses(tenant_id=B) == []


async def test_what_leaves_for_want_of_room_is_told_all_who_used_it(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    shared = await bench.revision(0)
    for tenant_id in (A, B):
        await use(bench, shared, tenant_id)
    await use(bench, await bench.revision(1), TenantId("c"))
    told = {event.tenant_id for event in bench.announced.events if event.type == "adapter.evicted"}
    assert told == {A, B}
    assert {bench.tiers.status(shared.digest, tenant_id=each).state for each in (A, B)} == {"evicted"}
    assert bench.tiers.status(shared.digest, tenant_id=TenantId("c")).state == "registered"


async def _act(bench: Bench, rng: random.Random, revisions: list[RevisionRef], tenant_id: TenantId) -> str:
    """Do something as a tenant, and return what it was told."""
    revision, act = rng.choice(revisions), rng.choice(["use", "prewarm", "pin", "unpin", "evict"])
    try:
        if act == "use":
            await use(bench, revision, tenant_id)
        elif act == "prewarm":
            return _told([await prewarm(bench, revision, tenant_id)])
        elif act == "evict":
            return _told([await bench.tiers.evict(revision.digest, tenant_id=tenant_id, cause="admin")])
        else:
            pinned = act == "pin"
            return _told([bench.tiers.pin(revision.digest, tenant_id=tenant_id, pinned=pinned)])
    except (NotFound, PreconditionFailed) as error:
        return str(error)
    return "done"


def _told(statuses: list[AdapterStatus]) -> str:
    """Return what statuses say, but for how long a load took."""
    return repr([replace(each, load_seconds=0.0) for each in statuses])


async def _history(make_bench: Make, seed: int, *, with_neighbour: bool) -> list[object]:
    """Return all that tenant A is told in a random history, in which B may act in between."""
    bench = await make_bench(slots=6, host=6)
    revisions = [await bench.revision(number) for number in range(3)]
    mine, others, order = random.Random(seed), random.Random(seed + 1000), random.Random(seed + 2000)
    told: list[object] = []
    for _ in range(40):
        if order.random() < 0.5:
            if with_neighbour:
                await _act(bench, others, revisions, B)
        else:
            told.append(await _act(bench, mine, revisions, A))
        told.append(_told(bench.tiers.statuses(tenant_id=A)))
        told.append([_told([bench.tiers.status(each.digest, tenant_id=A)]) for each in revisions])
    told.append([(e.type, getattr(e, "digest", "")) for e in bench.announced.events if e.tenant_id == A])
    return told


@pytest.mark.parametrize("seed", range(12))
async def test_all_that_a_tenant_is_told_is_the_same_without_its_neighbour(
    make_bench: Make, seed: int
) -> None:
    alone = await _history(make_bench, seed, with_neighbour=False)
    assert await _history(make_bench, seed, with_neighbour=True) == alone


async def test_pins_and_parts_are_kept_for_each_tenant_over_a_restart(make_bench: Make) -> None:
    bench = await make_bench()
    shared = await bench.revision(0)
    for tenant_id in (A, B):
        await use(bench, shared, tenant_id)
    bench.tiers.pin(shared.digest, tenant_id=A, pinned=True)
    kept = {each.tenant_id: each.pinned for each in bench.tiers.working_set()}
    assert kept == {A: True, B: False}


@pytest.mark.integration
async def test_the_store_has_a_row_for_each_tenant(make_bench: Make, database: str) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    rows = [
        WorkingSetEntry(revision=revision, tenant_id=each, pinned=each == A, uses=2, last_used_at=1.0)
        for each in (A, B)
    ]
    pool = await open_pool(database, schema="loader")
    async with pool:
        await migrate(pool, schema="loader", package="services.loader.adapters.migrations")
        store = PostgresWorkingSet(pool, engine_id=EngineId("e"), base_digest=bench.facts.digest)
        await store.save(rows)
        await store.save(rows)
        assert sorted(await store.load(), key=lambda each: each.tenant_id) == rows


def test_as_many_adapters_are_restored_as_there_is_room_for_not_parts() -> None:
    def part(number: int, tenant_id: TenantId) -> WorkingSetEntry:
        digest = Digest(f"sha256:{number:064x}")
        revision = RevisionRef(digest=digest, number=1, manifest=None)  # type: ignore[arg-type]  # not read
        return WorkingSetEntry(
            revision=revision, tenant_id=tenant_id, pinned=False, uses=9 - number, last_used_at=0.0
        )

    parts = [part(number, tenant_id) for number in range(3) for tenant_id in (A, B)]
    chosen = hottest_first(parts, now=0.0, most=2)
    assert [(each.revision.digest[-1], each.tenant_id) for each in chosen] == [
        ("0", A),
        ("0", B),
        ("1", A),
        ("1", B),
    ]


def test_a_tenant_is_told_its_own_share_of_an_engines_load() -> None:
    whole = EngineLoad(
        requests=90,
        loads_waiting=9,
        loads_running=3,
        in_slots=8,
        in_host=40,
        host_bytes=4000,
        host_bytes_capacity=5000,
    )
    slot = replace(ADAPTER_STATUS, tier="slot", state="ready", in_flight=2, host_bytes=10)
    gone = replace(ADAPTER_STATUS, tier="stored", state="queued", in_flight=0, host_bytes=0)
    assert load_of_tenant([slot, gone], whole=whole) == EngineLoad(
        requests=2,
        loads_waiting=1,
        loads_running=0,
        in_slots=1,
        in_host=1,
        host_bytes=10,
        host_bytes_capacity=5000,
    )
