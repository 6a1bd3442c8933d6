"""Adapters on a real engine, through the worker extension: truth, memory, reloads, storms."""

import asyncio
import random
import secrets
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mint_common.adapters_format import WEIGHTS_FILE, peft_name
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.claims import RevisionRef
from mint_common.errors import AdapterInvalid, NotFound, PreconditionFailed
from mint_common.generation import SampleRequest, Sampling, float32s
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.handlers.engine_watch import EngineWatch
from services.loader.ports import LoadedAdapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

TENANT = TenantId("t")
SCORED = Sampling(max_new_tokens=3, temperature=0.0, ignore_eos=True)


async def answer(rig: Any, revision: RevisionRef | None) -> tuple[Digest | None, tuple[float, ...]]:
    """Return which revision is said to have answered, and the log-probabilities: its fingerprint."""
    sampled = await rig.client.sample(scored(revision, (5, 6, 7, 8)))
    logprobs = float32s(sampled.sequences[0].logprobs)
    return sampled.revision, tuple(round(value, 3) for value in logprobs)


def scored(
    revision: RevisionRef | None, tokens: tuple[int, ...], tenant_id: TenantId = TENANT
) -> SampleRequest:
    return SampleRequest(
        request_id="r", tenant_id=tenant_id, revision=revision, tokens=tokens, sampling=SCORED
    )


async def cached_tokens(rig: Any, request: SampleRequest, adapter: LoadedAdapter | None) -> int:
    """Return how many of a prompt's tokens came from the prefix cache."""
    outputs: list[Any] = []
    generate = rig.engine._llm.generate

    async def noting(*args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async for output in generate(*args, **options):
            outputs.append(output)
            yield output

    rig.engine._llm.generate = noting
    try:
        await rig.engine.sample(request, request_id=secrets.token_hex(4), adapter=adapter)
    finally:
        del rig.engine._llm.generate
    return int(outputs[-1].num_cached_tokens)


async def storm(rig: Any, *, answers: int, adapters: int, at_once: int, seed: int) -> int:
    """Ask for random adapters, more than fit, and evict at random; return the number of wrong answers."""
    revisions = [await rig.revision(700 + n) for n in range(adapters)]
    fingerprints = {}
    for revision in revisions:
        fingerprints[revision.digest] = (await answer(rig, revision))[1]
    assert len(set(fingerprints.values())) == adapters, "each canary is told apart by its answer"
    rng, wrong, left = random.Random(seed), 0, iter(range(answers))

    async def ask() -> None:
        nonlocal wrong
        for number in left:
            revision = rng.choice(revisions)
            served, logprobs = await answer(rig, revision)
            wrong += served != revision.digest or logprobs != fingerprints[revision.digest]
            if number % 7 == 0:
                idle = [s.digest for s in rig.tiers.statuses() if s.readiness == "ready" and not s.in_flight]
                if idle:
                    with suppress(PreconditionFailed, NotFound):  # somebody else was faster
                        await rig.client.change(rng.choice(idle), "evict", tenant_id=TENANT)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(ask())
    return wrong


async def test_an_add_and_evict_storm_never_mixes_adapters_up(rig: Any) -> None:
    assert await storm(rig, answers=600, adapters=9, at_once=12, seed=1) == 0
    assert rig.engine.loads > 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_long_storm_never_mixes_adapters_up(rig: Any) -> None:
    assert await storm(rig, answers=10_000, adapters=12, at_once=16, seed=2) == 0


async def test_a_reload_answers_as_the_first_load_did(rig: Any) -> None:
    revision, others = await rig.revision(81), [await rig.revision(82 + n) for n in range(3)]
    first = await answer(rig, revision)
    for other in others:  # it loses its slot, not its place in host memory
        await answer(rig, other)
    assert rig.tiers.status(revision.digest).tier == "host"
    assert await answer(rig, revision) == first
    for _ in range(3):
        await rig.client.change(revision.digest, "evict", tenant_id=TENANT)
        assert await answer(rig, revision) == first, "alpha / r is applied once, however often it is loaded"


async def test_the_loader_and_the_engine_agree_on_who_is_where(rig: Any) -> None:
    for seed in range(91, 97):
        await answer(rig, await rig.revision(seed))
    found = await rig.engine.residents()
    tiers = {
        held.adapter.number: rig.tiers.status(digest).tier == "slot"
        for digest, held in rig.tiers.resident_set.held.items()
    }
    assert tiers == found
    assert set(found) == set(await rig.engine._llm.list_loras())
    told = len(rig.announced)
    await rig.tiers.reconcile()
    assert len(rig.announced) == told, "nothing to correct"


async def test_what_the_engine_forgot_is_loaded_again(rig: Any) -> None:
    revision = await rig.revision(98)
    first = await answer(rig, revision)
    await rig.engine.unload(rig.tiers.resident_set.held[revision.digest].adapter.number)
    await rig.tiers.reconcile()
    assert rig.tiers.status(revision.digest).state == "evicted"
    assert await answer(rig, revision) == first


@pytest.mark.parametrize("tier", ["host", "slot"])
async def test_a_request_right_after_the_engine_lost_its_adapter_is_answered(rig: Any, tier: str) -> None:
    revisions = [await rig.revision(140 + n) for n in range(3)]
    fingerprints = [await answer(rig, revision) for revision in revisions]
    lost = revisions[0 if tier == "host" else 2]
    assert rig.tiers.status(lost.digest).tier == tier
    await rig.engine.unload(rig.tiers.resident_set.held[lost.digest].adapter.number)
    answers = await asyncio.gather(*(answer(rig, revision) for revision in [lost, *revisions, lost]))
    assert answers == [
        fingerprints[revisions.index(lost)],
        *fingerprints,
        fingerprints[revisions.index(lost)],
    ]
    await rig.tiers.reconcile()
    found = await rig.engine.residents()
    assert set(found) == {held.adapter.number for held in rig.tiers.resident_set.held.values()}


async def test_bytes_are_those_of_the_weights(rig: Any) -> None:
    revision = await rig.revision(99, rank=4)
    status = await rig.client.prewarm(revision, tenant_id=TENANT)
    weights = sum(4 * 4 * (width + height) for width, height in rig.facts.modules.values())
    assert status.host_bytes == status.slot_bytes == status.size_bytes == weights


async def test_eviction_gives_memory_back_however_many_names_were_seen(rig: Any) -> None:
    (running,) = rig.engine._llm.engine_core.resources.engine_manager.processes
    engine = psutil.Process(running.pid)
    revision = await rig.revision(101, rank=16)
    folder = (await rig.tiers._staging.stage(revision)).folder

    async def load_and_drop(numbers: range) -> int:
        for number in numbers:
            adapter = LoadedAdapter(digest=revision.digest, number=number, folder=folder)
            await rig.engine.stage(adapter)
            await rig.engine.activate(adapter, victim=None, slice_ms=50.0)
            await rig.engine.unload(number)
        return int(engine.memory_info().rss)

    before = await load_and_drop(range(10_000, 10_100))
    after = await load_and_drop(range(10_100, 10_400))
    assert after - before < 8 << 20
    assert await rig.engine.residents() == {}


async def test_an_adapter_that_matches_no_module_is_refused(rig: Any, tmp_path: Path) -> None:
    revision = await rig.revision(102)
    folder = Path(shutil.copytree((await rig.tiers._staging.stage(revision)).folder, tmp_path / "foreign"))
    foreign = {peft_name("model.layers.0.elsewhere", half): np.ones((4, 4), np.float32) for half in "AB"}
    (folder / WEIGHTS_FILE).write_bytes(write_tensors(foreign))
    adapter = LoadedAdapter(digest=revision.digest, number=20_000, folder=folder)
    with pytest.raises(AdapterInvalid):
        await rig.engine.stage(adapter)
    assert await rig.engine.residents() == {}
    assert (await answer(rig, None))[0] is None


async def test_tenants_share_no_prefix_cache(rig: Any) -> None:
    prompt = tuple(range(5, 5 + 200))  # a block of the cache is of 128
    cached = [
        await cached_tokens(rig, scored(None, prompt, TenantId(tenant)), None) for tenant in ("a", "a", "b")
    ]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 0


async def test_a_busy_slot_makes_way_on_a_real_engine(make_rig: Callable[..., Awaitable[Any]]) -> None:
    rig = await make_rig()
    revisions = [await rig.revision(seed) for seed in range(111, 117)]
    answers = await asyncio.gather(*(answer(rig, each) for each in revisions * 10))
    assert [served for served, _ in answers] == [each.digest for each in revisions * 10]
    assert rig.tiers.load(requests=0, tokens=0).in_slots == 2


async def test_within_a_heartbeat_what_is_told_is_the_engines_own_list(rig: Any) -> None:
    """Whatever became of the engine's adapters behind the loader's back."""
    revisions = [await rig.revision(seed) for seed in range(121, 125)]
    for revision in revisions:
        await answer(rig, revision)
    held = rig.tiers.resident_set.held
    lost = held[revisions[0].digest].adapter.number
    staged = await rig.tiers._staging.stage(await rig.revision(125))
    stray = LoadedAdapter(digest=staged.digest, number=30_000, folder=staged.folder)
    await rig.engine.unload(lost)
    await rig.engine.stage(stray)
    watch = EngineWatch(engine=rig.engine, tiers=rig.tiers, clock=SystemClock(), engine_silence_seconds=60.0)
    heartbeat = asyncio.create_task(watch.reconcile())
    try:
        async with asyncio.timeout(60):
            while stray.number in rig.engine._unmapped or stray.number in await rig.engine._llm.list_loras():
                await asyncio.sleep(0.02)
    finally:
        heartbeat.cancel()
    told = {status.digest for status in await rig.client.adapters() if status.tier != "stored"}
    numbers = {rig.tiers.resident_set.held[digest].adapter.number for digest in told}
    assert numbers == set(await rig.engine._llm.list_loras())
    assert told == {revision.digest for revision in revisions[1:]}


async def test_two_revisions_share_no_prefix_cache_and_a_reload_may_use_its_own(rig: Any) -> None:
    one, other = await rig.revision(131), await rig.revision(132)
    prompt = tuple(range(5, 5 + 200))  # a block of the cache is of 128

    async def cached(revision: RevisionRef) -> int:
        async with rig.tiers.hold(revision, tenant_id=TENANT, cause="test") as adapter:
            return await cached_tokens(rig, scored(revision, prompt), adapter)

    assert [await cached(one), await cached(other)] == [0, 0]
    assert await cached(one) > 0
    await rig.client.change(one.digest, "evict", tenant_id=TENANT)
    assert await cached(one) > 0, "equal digest, equal weights: what was computed stays right"
