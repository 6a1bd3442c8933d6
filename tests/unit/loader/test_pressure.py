"""Tiers under pressure: floods, many waiters, names that nobody has, slots that all are busy."""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AdapterInvalid, MintError, Overloaded, Unavailable
from mint_common.ids import TenantId, sha256_digest
from services.loader.ports import LoadedAdapter
from tests.testing.blobs_memory import MemoryBlobs

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
TENANT, OTHER = TenantId("t"), TenantId("other")


async def use(
    bench: Any, revision: RevisionRef, *, tenant: TenantId = TENANT, until: asyncio.Event | None = None
) -> str:
    async with bench.tiers.hold(revision, tenant_id=tenant, cause="req") as adapter:
        if until is not None:
            await until.wait()
        return adapter.digest


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def nobodys(number: int) -> RevisionRef:
    """Return a revision of which no blob exists."""
    claim = Claim(uri=f"revisions/p/{number}/mint_manifest.json", sha256="0" * 64, size_bytes=1)
    return RevisionRef(digest=sha256_digest(str(number).encode()), number=1, manifest=claim)


async def test_a_thousand_misses_make_one_fetch_and_one_load(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    fetched: list[str] = []
    plain = MemoryBlobs.fetch

    async def counting(self: MemoryBlobs, claim: Claim, path: Path) -> None:
        fetched.append(claim.uri)
        await plain(self, claim, path)

    monkeypatch.setattr(MemoryBlobs, "fetch", counting)
    answers = await asyncio.gather(*(use(bench, revision) for _ in range(1000)))
    assert set(answers) == {revision.digest}
    assert bench.engine.loads == bench.engine.copies == [revision.digest]
    assert len([uri for uri in fetched if uri.endswith(".safetensors")]) == 1


async def test_a_flood_of_one_tenant_does_not_hold_up_another(make_bench: Make) -> None:
    bench = await make_bench(depth=64, tenant_depth=48, host=3)
    real = [await bench.revision(seed) for seed in range(8)]
    bench.engine.gate.clear()
    flood = [asyncio.create_task(use(bench, nobodys(n))) for n in range(10_000 - len(real))]
    flood += [asyncio.create_task(use(bench, each)) for each in real[1:]]
    await asyncio.sleep(0)
    loads_before = len(bench.engine.loads)
    single = asyncio.create_task(use(bench, real[0], tenant=OTHER))
    await asyncio.sleep(0)
    position = bench.tiers.status(real[0].digest).queue_position
    assert position is not None
    assert position <= 1
    bench.engine.gate.set()
    assert await single == real[0].digest
    assert len(bench.engine.loads) - loads_before <= 3
    results = await asyncio.gather(*flood, return_exceptions=True)
    refused = [error for error in results if isinstance(error, Overloaded)]
    assert len(refused) >= 10_000 - 48 - 2
    assert all(error.retry_after_seconds >= 1 for error in refused)


async def test_random_names_leave_no_trace(make_bench: Make) -> None:
    bench = await make_bench(depth=8, tenant_depth=8)

    async def ask(number: int) -> None:
        with pytest.raises(MintError):
            await use(bench, nobodys(number))

    def size() -> int:
        gc.collect()
        resident_set, loads, slots = bench.tiers.resident_set, bench.tiers._loads, bench.tiers._slots
        kept = (
            resident_set.held,
            resident_set._ends,
            resident_set.residency.residents,
            loads._pending,
            slots._queues,
        )
        return sum(sys.getsizeof(each) for each in kept) + sum(len(each) for each in kept)

    for number in range(600):
        await ask(number)
    before = size()
    for number in range(600, 2400):
        await ask(number)
    assert size() == before
    assert bench.cache.stored() == []
    assert len(bench.tiers.statuses()) == 0


async def test_no_more_adapters_run_than_there_are_slots_and_all_get_their_turn(make_bench: Make) -> None:
    bench = await make_bench(slots=2, host=8, depth=16)
    revisions = [await bench.revision(seed) for seed in range(6)]
    answers = await asyncio.gather(*(use(bench, each) for each in revisions * 5))
    assert answers == [each.digest for each in revisions * 5]
    assert len(bench.engine.slots) <= 2


async def test_a_busy_adapter_makes_way_for_one_that_waits(make_bench: Make) -> None:
    bench = await make_bench(slots=1, host=3, drain_after=0.5)
    hot, cold = await bench.revision(0), await bench.revision(1)
    first_ends, second_ends = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(use(bench, hot, until=first_ends))
    await until(lambda: bench.tiers.resident_set.residency.get(hot.digest) is not None)
    await until(lambda: bench.tiers.status(hot.digest).tier == "slot")
    waiting = asyncio.create_task(use(bench, cold, until=second_ends))
    await until(lambda: bench.tiers.status(cold.digest).in_flight == 1)
    await use(bench, hot)  # until somebody has waited too long, the slot is its own
    await asyncio.sleep(0)
    await bench.clock.advance(0.6)
    await until(lambda: bench.tiers._slots._draining == {hot.digest})
    late = asyncio.create_task(use(bench, hot))
    first_ends.set()
    await until(lambda: bench.tiers.status(cold.digest).tier == "slot")
    assert not late.done()
    second_ends.set()
    assert await asyncio.gather(first, waiting, late) == [hot.digest, cold.digest, hot.digest]


async def test_a_waiter_for_a_slot_that_goes_away_gives_its_claim_back(make_bench: Make) -> None:
    bench = await make_bench(slots=1, host=3)
    hot, cold = await bench.revision(0), await bench.revision(1)
    ends = asyncio.Event()
    running = asyncio.create_task(use(bench, hot, until=ends))
    await until(lambda: bench.tiers.status(hot.digest).tier == "slot")
    waiting = asyncio.create_task(use(bench, cold))
    await until(lambda: bench.tiers.status(cold.digest).in_flight == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert bench.tiers.status(cold.digest).in_flight == 0
    ends.set()
    await running


async def test_activations_keep_to_their_share_while_others_generate(make_bench: Make) -> None:
    bench = await make_bench(slots=8, host=8, depth=16, stall_ms=5.0)
    revisions = [await bench.revision(seed) for seed in range(3)]
    with bench.tiers.generating():
        tasks = [asyncio.create_task(use(bench, each)) for each in revisions]
        await until(lambda: len(bench.tiers.resident_set.held) == 3)
        assert len(bench.engine.copies) == 1, "it has stalled 5 ms, of 2 ms that it may at once"
        await bench.clock.advance(0.031)
        await until(lambda: len(bench.engine.copies) == 2)
        await bench.clock.advance(0.06)
        await asyncio.gather(*tasks)


async def test_an_adapter_lets_the_first_token_of_a_warm_request_go_before_it(make_bench: Make) -> None:
    bench = await make_bench(slots=8, host=8, depth=16, precedence_ms=12.0)
    revisions = [await bench.revision(seed) for seed in range(3)]
    with bench.tiers.first_token(warm=True) as came:
        tasks = [asyncio.create_task(use(bench, each)) for each in revisions]
        await until(lambda: len(bench.tiers.resident_set.held) == 3)
        assert not bench.engine.copies
        came()
        await until(lambda: len(bench.engine.copies) == 3)
        await asyncio.gather(*tasks)


async def test_an_adapter_gives_way_for_a_bounded_time(make_bench: Make) -> None:
    bench = await make_bench(slots=8, host=8, depth=16, precedence_ms=12.0)
    revisions = [await bench.revision(seed) for seed in range(3)]
    with bench.tiers.first_token(warm=True):
        tasks = [asyncio.create_task(use(bench, each)) for each in revisions]
        await until(lambda: len(bench.tiers.resident_set.held) == 3)
        for copies in (1, 2, 3):
            await bench.clock.advance(0.0125)
            await until(lambda copies=copies: len(bench.engine.copies) == copies)
        await asyncio.gather(*tasks)


async def test_where_all_wait_for_adapters_nobody_gives_way(make_bench: Make) -> None:
    bench = await make_bench(slots=8, host=8, depth=16, precedence_ms=12.0)
    with bench.tiers.first_token(warm=False):
        assert await use(bench, revision := await bench.revision(0)) == revision.digest


async def test_a_cold_request_keeps_others_news_waiting_until_its_first_token(make_bench: Make) -> None:
    bench = await make_bench()
    revision, ends = await bench.revision(0), asyncio.Event()
    assert not bench.tiers.keeps_requests_waiting
    bench.engine.gate.clear()
    bench.engine.copy_gate.clear()
    request = asyncio.create_task(use(bench, revision, until=ends))
    for gate, asked in (
        (bench.engine.gate, bench.engine.loads),
        (bench.engine.copy_gate, bench.engine.copies),
    ):
        await until(lambda asked=asked: asked == [revision.digest])
        assert bench.tiers.keeps_requests_waiting
        gate.set()
    await until(lambda: bench.tiers.status(revision.digest).tier == "slot")
    with bench.tiers.first_token(warm=False) as came:
        assert bench.tiers.keeps_requests_waiting
        came()
        await until(lambda: not bench.tiers.keeps_requests_waiting)
    ends.set()
    await request


async def test_an_engine_at_rest_activates_without_a_pause(make_bench: Make) -> None:
    bench = await make_bench(slots=8, host=8, depth=16, stall_ms=50.0)
    await asyncio.gather(*[use(bench, await bench.revision(seed)) for seed in range(5)])
    assert len(bench.engine.copies) == 5


async def test_an_adapter_waits_for_the_slot_of_one_that_is_being_dropped(make_bench: Make) -> None:
    bench = await make_bench()
    bench.engine.has_full_slots = True
    waiting = asyncio.create_task(use(bench, await bench.revision(0)))
    await until(lambda: len(bench.tiers.resident_set.held) == 1)
    await bench.clock.advance(0.01)
    assert not waiting.done()
    bench.engine.has_full_slots = False
    await bench.clock.advance(0.01)
    await waiting


async def test_a_slot_that_never_comes_free_is_not_waited_for_for_ever(make_bench: Make) -> None:
    bench = await make_bench()
    bench.engine.has_full_slots = True
    waiting = asyncio.create_task(use(bench, await bench.revision(0)))
    await until(lambda: len(bench.tiers.resident_set.held) == 1)
    for _ in range(3):
        await bench.clock.advance(3.0)
    with pytest.raises(Unavailable):
        await waiting
    bench.engine.has_full_slots = False
    await use(bench, await bench.revision(1))


async def test_a_load_that_waits_too_long_is_refused(make_bench: Make) -> None:
    bench = await make_bench(queue_wait=5.0)
    first, second = await bench.revision(0), await bench.revision(1)
    bench.engine.gate.clear()
    loading = asyncio.create_task(use(bench, first))
    await until(lambda: bench.engine.loads == [first.digest])
    waiting = asyncio.create_task(use(bench, second))
    await asyncio.sleep(0)
    for _ in range(6):
        await bench.clock.advance(1.0)
    with pytest.raises(Overloaded):
        await waiting
    bench.engine.gate.set()
    assert await loading == first.digest


async def test_states_are_told_in_full(make_bench: Make) -> None:
    bench = await make_bench(slots=1, host=2)
    first, second, bad = await bench.revision(0), await bench.revision(1), nobodys(1)
    bench.engine.gate.clear()
    loading = asyncio.create_task(use(bench, first))
    await until(lambda: bench.engine.loads == [first.digest])
    queued = asyncio.create_task(use(bench, second))
    await asyncio.sleep(0)
    assert bench.tiers.status(first.digest).state == "fetching"
    waiting = bench.tiers.status(second.digest)
    assert (waiting.state, waiting.queue_position, waiting.readiness) == ("queued", 0, "registered")
    asked = bench.tiers.status(second.digest, tenant_id=TENANT)
    assert (asked.queued_at, asked.queued_for) == (pytest.approx(bench.clock.now(), abs=5), "request")
    bench.engine.copy_gate.clear()
    bench.engine.gate.set()
    await until(lambda: bench.tiers.status(second.digest).state == "staged")
    activating = bench.tiers.status(first.digest)
    assert (activating.state, activating.tier, activating.slot_bytes) == ("activating", "host", 100)
    bench.engine.copy_gate.set()
    await asyncio.gather(loading, queued)
    states = {bench.tiers.status(each.digest).state for each in (first, second)}
    assert states == {"ready", "staged"}
    assert (await bench.tiers.evict(first.digest, tenant_id=TENANT, cause="admin")).state == "evicted"
    with pytest.raises(MintError):
        await use(bench, bad)
    assert bench.tiers.status(bad.digest).state == "failed"


async def test_what_the_engine_lost_or_hides_is_found_out(make_bench: Make) -> None:
    bench = await make_bench(host=4)
    lost, kept = await bench.revision(0), await bench.revision(1)
    for each in (lost, kept):
        await use(bench, each)
    await bench.engine.unload(1)
    bench.engine.host[77] = sha256_digest(b"stray")
    await bench.tiers.reconcile()
    assert bench.tiers.status(lost.digest).state == "evicted"
    assert bench.tiers.status(kept.digest).readiness == "ready"
    assert 77 not in bench.engine.host
    assert await use(bench, lost) == lost.digest
    assert set(bench.engine.host.values()) == {lost.digest, kept.digest}
    before = bench.kinds()
    await bench.tiers.reconcile()
    assert bench.kinds() == before


async def test_requests_for_what_the_engine_has_lost_wait_for_it_to_be_brought_back(make_bench: Make) -> None:
    bench = await make_bench(slots=1)
    lost, other = await bench.revision(0), await bench.revision(1)
    for each in (lost, other):
        await use(bench, each)
    bench.engine.lose(lost.digest)
    answers = await asyncio.gather(*(use(bench, lost) for _ in range(5)), use(bench, other))
    assert answers == [lost.digest] * 5 + [other.digest]
    assert bench.engine.loads == [lost.digest, other.digest, lost.digest]
    assert bench.kinds() == ["adapter.loaded"] * 2


async def test_what_is_lost_and_cannot_be_brought_back_fails_as_a_load_does(make_bench: Make) -> None:
    bench = await make_bench(slots=1)
    lost, other = await bench.revision(0), await bench.revision(1)
    for each in (lost, other):
        await use(bench, each)
    bench.engine.lose(lost.digest)
    bench.engine.refused.add(lost.digest)
    with pytest.raises(AdapterInvalid):
        await use(bench, lost)
    assert await use(bench, other) == other.digest
    bench.engine.refused.clear()
    assert await use(bench, lost) == lost.digest


async def test_what_is_loaded_while_strays_are_freed_is_none_of_them(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    engine, is_staged = bench.engine, asyncio.Event()
    stage, unload = engine.stage, engine.unload

    async def stage_slowly(adapter: LoadedAdapter, *, victims: Sequence[int] = ()) -> int:
        size_bytes: int = await stage(adapter, victims=victims)
        await is_staged.wait()
        return size_bytes

    async def unload_slowly(number: int) -> None:
        is_staged.set()
        await until(lambda: bench.tiers.status(revision.digest).readiness == "ready")
        await unload(number)

    engine.stage, engine.unload = stage_slowly, unload_slowly
    engine.host[77] = sha256_digest(b"stray")
    using = asyncio.create_task(use(bench, revision))
    await until(lambda: revision.digest in engine.host.values())
    await bench.tiers.reconcile()
    assert await using == revision.digest
    assert list(engine.host.values()) == [revision.digest]
