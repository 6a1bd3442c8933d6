"""Tiers over time: who loads, who waits, who is displaced, who is told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from mint_common.claims import RevisionRef
from mint_common.errors import (
    AdapterInvalid,
    BlobCorrupt,
    BlobMissing,
    MintError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unavailable,
)
from mint_common.events import AdapterFailed, AdapterLoaded
from mint_common.ids import Digest, TenantId
from services.loader.core.cold_queue import Priority
from tests.testing.adapters import make_base_facts

Make = Callable[..., Awaitable[Any]]  # Any: Bench of conftest.py, which cannot be imported
TENANT = TenantId("t")


async def use(
    bench: Any, revision: RevisionRef, until: asyncio.Event | None = None, *, tenant_id: TenantId = TENANT
) -> Digest:
    async with bench.tiers.hold(revision, tenant_id=tenant_id, cause="req") as adapter:
        if until is not None:
            await until.wait()
        return adapter.digest


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_fifty_misses_share_one_load(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    answers = await asyncio.gather(*(use(bench, revision) for _ in range(50)))
    assert set(answers) == {revision.digest}
    assert bench.engine.loads == [revision.digest]
    assert bench.kinds() == ["adapter.loaded"]
    status = bench.tiers.status(revision.digest)
    assert (status.tier, status.readiness, status.in_flight) == ("slot", "ready", 0)


async def test_more_adapters_than_host_capacity_all_get_their_turn(make_bench: Make) -> None:
    bench = await make_bench(host=2, depth=16, workers=2)
    revisions = [await bench.revision(seed) for seed in range(8)]
    answers = await asyncio.gather(*(use(bench, revision) for revision in revisions * 2))
    assert answers == [revision.digest for revision in revisions * 2]
    assert len(bench.engine.host) == 2
    assert bench.kinds().count("adapter.evicted") == bench.kinds().count("adapter.loaded") - 2
    sequences = [event.sequence for event in bench.announced.events]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_eviction_is_invisible_to_the_next_request(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    for revision in (first, second, first):
        assert await use(bench, revision) == revision.digest
    assert bench.engine.loads == [first.digest, second.digest, first.digest]
    assert list(bench.engine.host) == [3], "each load has a number of its own"


async def test_a_full_queue_refuses_and_the_waiting_still_load(make_bench: Make) -> None:
    bench = await make_bench(depth=2)
    revisions = [await bench.revision(seed) for seed in range(4)]
    bench.engine.gate.clear()
    running = [asyncio.create_task(use(bench, revision)) for revision in revisions[:1]]
    await until(lambda: len(bench.engine.loads) == 1)
    running += [asyncio.create_task(use(bench, revision)) for revision in revisions[1:3]]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await use(bench, revisions[3])
    assert refused.value.retry_after_seconds >= 1
    bench.engine.gate.set()
    assert await asyncio.gather(*running) == [revision.digest for revision in revisions[:3]]


async def test_an_unexpected_error_fails_one_load_and_no_other(make_bench: Make) -> None:
    bench = await make_bench()
    broken, sound = await bench.revision(0), await bench.revision(1)
    bench.engine.broken.add(broken.digest)
    with pytest.raises(RuntimeError):
        await use(bench, broken)
    assert await use(bench, sound) == sound.digest
    bench.engine.broken.clear()
    assert await use(bench, broken) == broken.digest
    assert "adapter.failed" not in bench.kinds()


async def test_a_request_takes_the_place_of_a_waiting_prewarm(make_bench: Make) -> None:
    bench = await make_bench(depth=1)
    revisions = [await bench.revision(seed) for seed in range(3)]
    bench.engine.gate.clear()
    first = asyncio.create_task(use(bench, revisions[0]))
    await until(lambda: len(bench.engine.loads) == 1)
    prewarm = asyncio.create_task(bench.tiers.prewarm(revisions[1], tenant_id=TENANT, cause="evt"))
    await asyncio.sleep(0)
    request = asyncio.create_task(use(bench, revisions[2]))
    with pytest.raises(Overloaded):
        await prewarm
    bench.engine.gate.set()
    assert await asyncio.gather(first, request) == [revisions[0].digest, revisions[2].digest]


async def test_a_waiter_that_goes_away_leaves_nothing_behind(make_bench: Make) -> None:
    bench = await make_bench()
    first, second = await bench.revision(0), await bench.revision(1)
    bench.engine.gate.clear()
    loading = asyncio.create_task(use(bench, first))
    await until(lambda: len(bench.engine.loads) == 1)
    waiting = asyncio.create_task(use(bench, second))
    await asyncio.sleep(0)
    for task in (loading, waiting):
        task.cancel()
    await asyncio.gather(loading, waiting, return_exceptions=True)
    bench.engine.gate.set()
    await until(lambda: bench.tiers.status(first.digest).readiness == "ready")
    assert bench.tiers.status(first.digest).in_flight == 0
    assert bench.engine.loads == [first.digest], "nobody wanted the second any more"


async def test_a_waiter_cancelled_as_its_load_ends_does_not_hold_for_ever(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    bench.engine.gate.clear()
    task = asyncio.create_task(use(bench, revision))
    await until(lambda: len(bench.engine.loads) == 1)
    bench.engine.gate.set()
    while bench.tiers.status(revision.digest).readiness != "ready":
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bench.tiers.status(revision.digest).in_flight == 0


async def test_what_is_in_use_stays_and_the_next_request_waits_for_it(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    done = asyncio.Event()
    using = asyncio.create_task(use(bench, first, done))
    await until(lambda: bench.tiers.status(first.digest).in_flight == 1)
    waiting = asyncio.create_task(use(bench, second))
    await until(lambda: bench.cache.holds(second.digest))
    with pytest.raises(PreconditionFailed):
        await bench.tiers.evict(first.digest, tenant_id=TENANT, cause="admin")
    done.set()
    assert await asyncio.gather(using, waiting) == [first.digest, second.digest]


async def test_a_request_does_not_wait_for_room_for_ever(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1, room_wait=5.0)
    first, second = await bench.revision(0), await bench.revision(1)
    done = asyncio.Event()
    using = asyncio.create_task(use(bench, first, done))
    await until(lambda: bench.tiers.status(first.digest).in_flight == 1)
    waiting = asyncio.create_task(use(bench, second))
    await until(lambda: bool(bench.tiers._loads._parked_bytes))
    await bench.clock.advance(6.0)
    with pytest.raises(Overloaded):
        await waiting
    done.set()
    assert await using == first.digest


async def test_loads_that_wait_for_room_keep_no_worker_from_another_tenant(make_bench: Make) -> None:
    bench = await make_bench(host=9, slots=9, workers=2, host_bytes=2610)
    large = [await bench.revision(seed, rank=8) for seed in range(3)]
    done = asyncio.Event()
    using = asyncio.create_task(use(bench, large[0], done))
    await until(lambda: bench.tiers.status(large[0].digest).in_flight == 1)
    waiting = [asyncio.create_task(use(bench, revision)) for revision in large[1:]]
    await until(lambda: all(bench.cache.holds(revision.digest) for revision in large))
    small = await bench.revision(9, rank=1)
    async with asyncio.timeout(30):  # the loader's own clock stands still
        assert await use(bench, small, tenant_id=TenantId("other")) == small.digest
    assert not any(task.done() for task in waiting)
    done.set()
    assert await asyncio.gather(using, *waiting) == [revision.digest for revision in large]


async def test_room_goes_to_the_tenant_with_fewest_loads_that_wait_for_it(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1, workers=1)
    first, second, third, other = [await bench.revision(seed) for seed in range(4)]
    done = asyncio.Event()
    using = asyncio.create_task(use(bench, first, done))
    await until(lambda: bench.tiers.status(first.digest).in_flight == 1)
    waiting = [asyncio.create_task(use(bench, revision)) for revision in (second, third)]
    await until(lambda: bench.cache.holds(second.digest) and bench.cache.holds(third.digest))
    waiting.append(asyncio.create_task(use(bench, other, tenant_id=TenantId("other"))))
    await until(lambda: bench.cache.holds(other.digest))
    await asyncio.sleep(0.01)
    done.set()
    async with asyncio.timeout(30):
        await asyncio.gather(using, *waiting)
    assert bench.engine.loads == [first.digest, other.digest, second.digest, third.digest]


async def test_room_that_a_prewarm_leaves_as_it_ends_goes_to_who_waits_for_it(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1, workers=2)
    early, wanted = await bench.revision(0), await bench.revision(1)
    for gate in (bench.engine.gate, bench.engine.copy_gate):
        gate.clear()
        prewarm = asyncio.create_task(bench.tiers.prewarm(early, tenant_id=TENANT, cause="evt"))
        await until(lambda: early.digest in (bench.engine.loads + bench.engine.copies)[-1:])
        waiting = asyncio.create_task(use(bench, wanted))
        await until(lambda: bench.cache.holds(wanted.digest))
        await asyncio.sleep(0.01)
        gate.set()
        async with asyncio.timeout(30):  # the loader's own clock stands still
            assert await waiting == wanted.digest
        await prewarm
        bench.engine.copies.clear()


async def test_a_cache_that_cannot_be_trimmed_fails_no_load(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await make_bench()

    async def trim(*, keep: object) -> None:
        raise Unavailable(what="the builder", problem="its process has ended")

    monkeypatch.setattr(bench.cache, "trim", trim)
    for seed in range(4):
        revision = await bench.revision(seed)
        assert await use(bench, revision) == revision.digest


async def test_a_prewarm_never_displaces_what_is_in_use_and_does_not_wait(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    async with bench.tiers.hold(first, tenant_id=TENANT, cause="req"):
        with pytest.raises(Overloaded):
            await bench.tiers.prewarm(second, tenant_id=TENANT, cause="evt")
    assert bench.kinds() == ["adapter.loaded"], "it may fit later, so nothing has failed"


async def test_a_pin_outlasts_every_load(make_bench: Make) -> None:
    bench = await make_bench(host=2)
    revisions = [await bench.revision(seed) for seed in range(4)]
    await use(bench, revisions[0])
    bench.tiers.pin(revisions[0].digest, tenant_id=TENANT, pinned=True)
    for revision in revisions[1:]:
        await use(bench, revision)
    assert bench.tiers.status(revisions[0].digest).pinned
    with pytest.raises(PreconditionFailed, match="pinned"):
        await bench.tiers.evict(revisions[0].digest, tenant_id=TENANT, cause="admin")
    bench.tiers.pin(revisions[0].digest, tenant_id=TENANT, pinned=False)
    assert (await bench.tiers.evict(revisions[0].digest, tenant_id=TENANT, cause="admin")).tier == "stored"


async def test_an_eviction_says_why(make_bench: Make) -> None:
    bench = await make_bench(host=1, slots=1)
    first, second = await bench.revision(0), await bench.revision(1)
    await use(bench, first)
    await use(bench, second)
    await bench.tiers.evict(second.digest, tenant_id=TENANT, cause="admin")
    await use(bench, first)
    bench.engine.host.clear()
    await bench.tiers.reconcile()
    expected = [(first.digest, "room"), (second.digest, "asked"), (first.digest, "lost")]
    told = [event for event in bench.announced.events if event.type == "adapter.evicted"]
    assert [(event.digest, event.reason) for event in told] == expected
    kept = bench.tiers.resident_set._log.history.of_tenant(TENANT)
    assert [(one.digest, one.reason) for one in reversed(kept) if one.change == "evicted"] == expected


async def test_nothing_but_a_resident_can_be_pinned_or_evicted(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    with pytest.raises(NotFound):
        bench.tiers.pin(revision.digest, tenant_id=TENANT, pinned=True)
    with pytest.raises(NotFound):
        await bench.tiers.evict(revision.digest, tenant_id=TENANT, cause="admin")


async def _foreign(bench: Any) -> RevisionRef:
    return await bench.revision(1, facts=make_base_facts(name="other"))


async def _missing(bench: Any) -> RevisionRef:
    revision = await bench.revision(1)
    key = revision.manifest.uri.replace("mint_manifest.json", "adapter_model.safetensors")
    await bench.blobs.delete(key)
    return revision


async def _corrupt(bench: Any) -> RevisionRef:
    revision = await bench.revision(1)
    key = revision.manifest.uri.replace("mint_manifest.json", "adapter_model.safetensors")
    data = bytearray(bench.blobs._blobs[key])
    data[-1] ^= 1
    await bench.blobs.put(key, bytes(data))
    return revision


async def _mislabelled(bench: Any) -> RevisionRef:
    return replace(await bench.revision(1), digest=(await bench.revision(2)).digest)


async def _refused_by_engine(bench: Any) -> RevisionRef:
    revision = await bench.revision(1)
    bench.engine.refused.add(revision.digest)
    return revision


@pytest.mark.parametrize(
    ("spoil", "error", "reaches_engine"),
    [
        (_foreign, AdapterInvalid, False),
        (_missing, BlobMissing, False),
        (_corrupt, BlobCorrupt, False),
        (_mislabelled, AdapterInvalid, False),
        (_refused_by_engine, AdapterInvalid, True),
    ],
)
async def test_a_bad_adapter_fails_its_waiters_and_nobody_else(
    make_bench: Make,
    spoil: Callable[[Any], Awaitable[RevisionRef]],
    error: type[MintError],
    reaches_engine: bool,
) -> None:
    bench = await make_bench()
    good, bad = await bench.revision(0), await spoil(bench)
    results = await asyncio.gather(use(bench, bad), use(bench, good), use(bench, bad), return_exceptions=True)
    assert [type(result) for result in (results[0], results[2])] == [error, error]
    assert results[1] == good.digest
    assert (bad.digest in bench.engine.loads) == reaches_engine
    failed = [event for event in bench.announced.events if isinstance(event, AdapterFailed)]
    assert [(event.digest, event.code) for event in failed] == [(bad.digest, error.code)]
    assert list(bench.engine.host.values()) == [good.digest]


async def test_files_that_rot_on_disk_are_fetched_again(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    await use(bench, revision)
    await bench.tiers.evict(revision.digest, tenant_id=TENANT, cause="admin")
    folder = bench.cache._folder(revision.digest)
    (folder / "adapter_model.safetensors").write_bytes(b"rotten")
    assert await use(bench, revision) == revision.digest


async def test_the_disk_cache_is_bounded_but_keeps_what_is_resident(make_bench: Make) -> None:
    bench = await make_bench(host=2, disk_bytes=1)
    revisions = [await bench.revision(seed) for seed in range(4)]
    for revision in revisions:
        await use(bench, revision)
    await until(lambda: len(bench.cache.stored()) == 2)
    assert {entry.digest for entry in bench.cache.stored()} == set(bench.engine.host.values())


async def test_loads_are_announced_for_whom_they_ran(make_bench: Make) -> None:
    bench = await make_bench()
    revision = await bench.revision(0)
    await bench.tiers.prewarm(revision, tenant_id=TENANT, cause="evt", priority=Priority.PREFETCH)
    await bench.tiers.prewarm(revision, tenant_id=TENANT, cause="again")
    (event,) = bench.announced.events
    assert isinstance(event, AdapterLoaded)
    assert (event.tenant_id, event.base, event.epoch, event.sequence) == (TENANT, "pebble", "epoch_1", 1)
    assert event.size_bytes == bench.tiers.status(revision.digest).size_bytes > 0
