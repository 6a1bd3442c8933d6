"""Samples from their submission to their answer, with an engine that answers when the test says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.errors import InvalidField, MintError, Overloaded, Unavailable
from mint_common.generation import (
    AdapterStatus,
    EngineInfo,
    Sampled,
    SampledSequence,
    SampleRequest,
    Sampling,
)
from mint_common.ids import BaseName, Digest, EngineId, TenantId
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.tinker_samples import (
    ABANDONED_SECONDS,
    AWAY_SECONDS,
    CONTENDED_SECONDS,
    KEPT_SECONDS,
    PRUNE_SECONDS,
    EngineSamples,
)
from services.gateway.core.tinker.futures import FutureDone, FutureFailed, FutureGone, FuturePending
from services.gateway.core.tinker.sample_queue import SampleBudgets
from services.gateway.core.tinker.samples import SampleConflict, SampleOrder
from services.gateway.core.tinker.sampling_request import SamplePlan
from tests.testing.clock import ManualClock, settle
from tests.testing.factories import ADAPTER_STATUS, ENGINE_INFO

KEPT_BYTES = 10_000
MINE, OTHERS = TenantId("mine"), TenantId("others")
DIGEST = Digest("sha256:" + "1" * 64)
REVISION = RevisionRef(digest=DIGEST, number=1, manifest=Claim(uri="m", sha256="0" * 64, size_bytes=1))
STATUS = replace(
    ADAPTER_STATUS,
    digest=DIGEST,
    tier="stored",
    readiness="prewarming",
    in_flight=1,
    queue_position=3,
    state="queued",
)


class Engines:
    """An engine that answers one request for each ``let``; the directory of it alone."""

    def __init__(self) -> None:
        self.asked: list[SampleRequest] = []
        self.waiting: list[asyncio.Future[Sampled]] = []
        self.status: AdapterStatus = STATUS
        self.away = False

    async def sample(self, base: BaseName, request: SampleRequest) -> Sampled:
        self.asked.append(request)
        future: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return await future

    async def describe(self, base: BaseName) -> EngineInfo:
        if self.away:
            raise Unavailable(what="an engine", problem="it is away")
        return replace(ENGINE_INFO, base=base, max_context=8, vocab_size=9)

    async def find(self, base: BaseName, *, digest: Digest | None = None) -> "Engines":
        return self

    async def adapter(self, digest: Digest, *, tenant_id: TenantId) -> AdapterStatus:
        return self.status

    async def let(self, answer: MintError | None = None, revision: Digest | None = None) -> None:
        await settle()
        future = self.waiting.pop(0)
        if answer is not None:
            future.set_exception(answer)
        else:
            tokens = np.array([3], "<i4").tobytes()
            one = SampledSequence(reason="length", tokens=tokens, logprobs=tokens, likeliest=None)
            future.set_result(
                Sampled(
                    engine_id=EngineId("e"),
                    revision=revision,
                    sequences=(one,),
                    prompt_logprobs=None,
                    prompt_likeliest=None,
                )
            )
        await settle()


def budgets(*limits: int) -> SampleBudgets:
    return SampleBudgets(*(TenantBudget(what="samples", limit=limit) for limit in limits))


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engines = Engines()
        self.samples = EngineSamples(
            self.engines,  # type: ignore[arg-type]
            self.clock,
            of_keys=budgets(300, 1 << 16, 1 << 20),
            of_tenants=budgets(400, 1 << 16, 1 << 20),
            kept_bytes=KEPT_BYTES,
        )

    async def outcome(self, request_id: str, *, wait: float = 0.01, tenant: TenantId = MINE):
        return await self.samples.outcome(request_id, tenant, wait_seconds=wait, as_protobuf=False)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.samples.run())
    await settle()
    yield rig
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def order(
    seq: int = 0,
    *,
    key: str = "k",
    revision: RevisionRef | None = None,
    tenant: TenantId = MINE,
    n: int = 1,
) -> SampleOrder:
    plan = SamplePlan(
        sampling_session_id=f"s-{tenant}",
        seq_id=seq,
        tokens=(1, 2),
        sampling=Sampling(max_new_tokens=1, temperature=1.0, n=n),
        copies=1,
        prompt_logprobs=None,
        is_prompt_scored=False,
        scored=1,
    )
    return SampleOrder(tenant_id=tenant, key=key, base=BaseName("b"), revision=revision, plan=plan)


async def test_a_sample_is_pending_then_done_and_stays_done():
    async with running() as rig:
        request_id = rig.samples.submit(order())
        assert await rig.outcome(request_id) == FuturePending()
        await rig.engines.let()
        done = await rig.outcome(request_id)
        assert isinstance(done, FutureDone)
        assert b'"tokens":[3]' in done.body
        assert await rig.outcome(request_id) == done


async def test_a_poll_is_answered_when_the_sample_ends():
    async with running() as rig:
        request_id = rig.samples.submit(order())
        poll = asyncio.create_task(rig.outcome(request_id, wait=30))
        await rig.engines.let()
        assert isinstance(await poll, FutureDone)


async def test_a_repeated_submission_is_the_same_sample():
    async with running() as rig:
        assert rig.samples.submit(order()) == rig.samples.submit(order())
        await settle()
        assert len(rig.engines.asked) == 1
        other = replace(order(), plan=replace(order().plan, tokens=(2, 2)))
        with pytest.raises(SampleConflict):
            rig.samples.submit(other)


async def test_nobody_else_sees_a_sample():
    async with running() as rig:
        request_id = rig.samples.submit(order())
        with pytest.raises(FutureGone):
            await rig.outcome(request_id, tenant=OTHERS)
        with pytest.raises(FutureGone):
            await rig.outcome("smp_none")
        assert await rig.outcome(request_id) == FuturePending()


async def test_an_engine_that_is_full_or_away_is_asked_again():
    async with running() as rig:
        request_id = rig.samples.submit(order())
        await rig.engines.let(Overloaded(what="the engine", depth=1, retry_after_seconds=1))
        await rig.clock.advance(1)
        await rig.engines.let(Unavailable(what="the engine", problem="gone"))
        await rig.clock.advance(1)
        told = await rig.outcome(request_id)
        assert isinstance(told, FuturePending)
        assert told.queue_state == "paused_capacity"
        assert "restarting" in told.reason
        await rig.engines.let()
        assert isinstance(await rig.outcome(request_id), FutureDone)


async def test_an_engine_that_stays_away_fails_its_samples():
    async with running() as rig:
        request_id = rig.samples.submit(order())
        for _ in range(2):
            await rig.engines.let(Unavailable(what="the engine", problem="gone"))
            await rig.clock.advance(AWAY_SECONDS / 2 + 1)
            assert isinstance(await rig.outcome(request_id), FuturePending)
        await rig.engines.let(Unavailable(what="the engine", problem="gone"))
        failed = await rig.outcome(request_id)
        assert isinstance(failed, FutureFailed)
        assert failed.category == "server"


async def test_one_bad_sample_fails_alone():
    async with running() as rig:
        bad, good = (rig.samples.submit(order(seq)) for seq in range(2))
        await rig.engines.let(InvalidField(field="tokens", problem="is wrong"))
        await rig.engines.let()
        failed = await rig.outcome(bad)
        assert isinstance(failed, FutureFailed)
        assert failed.category == "user"
        assert isinstance(await rig.outcome(good), FutureDone)


async def test_an_answer_of_another_revision_is_never_told_and_harms_no_other():
    async with running() as rig:
        lied = rig.samples.submit(order(0, revision=REVISION))
        good = rig.samples.submit(order(1, revision=REVISION))
        await rig.engines.let(revision=None)
        await rig.engines.let(revision=DIGEST)
        assert isinstance(await rig.outcome(lied), FutureFailed)
        assert isinstance(await rig.outcome(good), FutureDone)


async def test_a_cold_adapter_is_said_with_its_place():
    async with running() as rig:
        request_id = rig.samples.submit(order(revision=REVISION))
        await settle()
        told = await rig.outcome(request_id)
        assert isinstance(told, FuturePending)
        assert (told.queue_state, "behind 3 others" in told.reason) == ("paused_capacity", True)
        rig.engines.status = replace(STATUS, readiness="ready", state="ready", queue_position=None)
        assert await rig.outcome(request_id) == FuturePending()
        await rig.engines.let(revision=DIGEST)


async def test_a_flood_leaves_room_and_queues_up_to_its_bounds():
    async with running() as rig:
        for seq in range(300):
            rig.samples.submit(order(seq, key="flood"))
        with pytest.raises(Overloaded):
            rig.samples.submit(order(300, key="flood"))
        for seq in range(300, 400):
            rig.samples.submit(order(seq, key="another"))
        with pytest.raises(Overloaded):
            rig.samples.submit(order(400, key="third"))
        await settle()
        assert len(rig.engines.asked) < 200
        rig.samples.submit(order(401, key="late", tenant=OTHERS))
        await settle()
        assert rig.engines.asked[-1].tenant_id == OTHERS


async def test_large_samples_are_counted_by_their_sequences():
    async with running() as rig:
        for seq in range(160):
            rig.samples.submit(order(seq, n=128))
        await settle()
        assert sum(request.sampling.n for request in rig.engines.asked) <= 384


async def test_what_nobody_polls_ends_sooner_while_others_have_samples():
    async with running() as rig:
        mine = rig.samples.submit(order())
        await rig.clock.advance(CONTENDED_SECONDS + PRUNE_SECONDS)
        assert await rig.outcome(mine) == FuturePending()
        others = rig.samples.submit(order(tenant=OTHERS))
        poll = asyncio.create_task(rig.outcome(others, wait=1000, tenant=OTHERS))
        await settle()
        await rig.clock.advance(CONTENDED_SECONDS + PRUNE_SECONDS)
        with pytest.raises(FutureGone):
            await rig.outcome(mine)
        assert rig.engines.waiting.pop(0).cancelled()
        await rig.engines.let()
        assert isinstance(await poll, FutureDone)


async def test_one_tenants_answers_do_not_push_anothers_out():
    async with running() as rig:
        others = rig.samples.submit(order(tenant=OTHERS))
        await rig.engines.let()
        mine = [rig.samples.submit(order(seq)) for seq in range(30)]
        for _ in mine:
            await rig.engines.let()
        assert isinstance(await rig.outcome(others, tenant=OTHERS), FutureDone)
        assert isinstance(await rig.outcome(mine[-1]), FutureDone)
        with pytest.raises(FutureGone):
            await rig.outcome(mine[0])


@pytest.mark.parametrize("seconds", [ABANDONED_SECONDS, KEPT_SECONDS])
async def test_what_nobody_polls_and_what_is_long_done_is_forgotten(seconds: float):
    async with running() as rig:
        request_id = rig.samples.submit(order())
        if seconds == KEPT_SECONDS:
            await rig.engines.let()
        await rig.clock.advance(seconds + PRUNE_SECONDS)
        with pytest.raises(FutureGone):
            await rig.outcome(request_id)
        assert seconds == KEPT_SECONDS or rig.engines.waiting[0].cancelled()


async def test_limits_are_remembered_while_an_engine_is_away():
    rig = Rig()
    rig.engines.away = True
    with pytest.raises(Unavailable):
        await rig.samples.describe(BaseName("b"))
    rig.engines.away = False
    described = await rig.samples.describe(BaseName("b"))
    rig.engines.away = True
    assert await rig.samples.describe(BaseName("b")) == described
