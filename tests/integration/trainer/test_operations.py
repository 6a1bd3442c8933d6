"""Operations over HTTP, on real Postgres and blobs: durable, in order, each with a result of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.errors import AlreadyExists, BlobMissing, InvalidField, NotFound, Overloaded
from mint_common.events import RevisionExported, TrainingFailed
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.quotas import QuotaExceeded
from mint_common.training import (
    CheckpointRef,
    Close,
    Closed,
    Datum,
    Export,
    Exported,
    Load,
    Loaded,
    Open,
    Opened,
    OperationConflict,
    Pass,
    Passed,
    Pending,
    PolicyTaken,
    Save,
    Saved,
    SessionClosed,
    Stepped,
    Submission,
)

from .conftest import LORA, Stage
from .operating import ADAM, TENANT, Run, floats, make_pass, serving, spoilt_pass
from .test_waves import sessions_of

pytestmark = pytest.mark.integration

SAVE = Save(name="one", overwrite=False, ttl_seconds=None, metadata={"note": "x"})
OTHER = TenantId("other")
A, B = PolicyId("policy_a"), PolicyId("policy_b")


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[TrainerClient]:
    async with stage.trainer() as trainer, serving(trainer) as client:
        yield client


async def opened(client: TrainerClient, policy_id: PolicyId = A) -> Run:
    run = Run(client, policy_id)
    await run.open()
    return run


def training(policy_id: PolicyId, name: str) -> CheckpointRef:
    return CheckpointRef(policy_id, "training", name)


async def test_every_operation_works_end_to_end(stage: Stage, client: TrainerClient) -> None:
    run = Run(client, A)
    assert await run.open() == Opened(step=0)
    passed = await run.do(make_pass(1))
    assert isinstance(passed, Passed)
    assert passed.metrics["loss:sum"] > 0
    assert [array.shape for array in passed.logprobs] == [
        datum.inputs["target_tokens"].shape for datum in make_pass(1).data
    ]
    stepped = await run.do(ADAM)
    assert isinstance(stepped, Stepped)
    assert stepped.step == 1
    saved = await run.do(SAVE)
    assert isinstance(saved, Saved)
    exported = await run.do(Export(name="first", ttl_seconds=None, metadata={}))
    assert isinstance(exported, Exported)
    (event,) = await stage.expect(1)
    assert isinstance(event, RevisionExported)
    assert (event.export_id, event.digest, event.step) == (exported.export_id, exported.digest, 1)
    assert await run.do(Load(checkpoint=training(A, "one"), with_optimizer=True)) == Loaded(step=1)
    assert await run.do(Close()) == Closed()


async def test_checkpoints_are_listed_shared_copied_and_deleted(stage: Stage, client: TrainerClient) -> None:
    run = await opened(client)
    saved = await run.do(SAVE)
    assert isinstance(saved, Saved)
    await run.do(Export(name="first", ttl_seconds=None, metadata={}))
    one, two = training(A, "one"), training(B, "two")
    page = await client.checkpoints(TENANT)
    assert [(record.kind, record.name) for record in page] == [("sampler", "first"), ("training", "one")]
    assert await client.checkpoint(one) == saved.checkpoint
    summaries = await client.summaries([A, B])
    assert [each.newest for each in summaries[A].checkpoints] == page
    assert B not in summaries
    with pytest.raises(NotFound):
        await client.copy_checkpoint(one, two, tenant_id=OTHER, ttl_seconds=3600)
    assert (await client.publish_checkpoint(one, is_public=True)).is_public
    copied = await client.copy_checkpoint(one, two, tenant_id=OTHER, ttl_seconds=3600)
    assert (copied.tenant_id, copied.claim, copied.is_public) == (OTHER, saved.checkpoint.claim, False)
    assert await client.copy_checkpoint(one, two, tenant_id=OTHER, ttl_seconds=None) == copied
    with pytest.raises(AlreadyExists):
        await client.copy_checkpoint(one, two, tenant_id=TENANT, ttl_seconds=None)
    assert (await client.expire_checkpoint(one, ttl_seconds=60)).expires_at is not None
    await client.delete_checkpoint(one)
    with pytest.raises(NotFound):
        await client.checkpoint(one)
    assert await stage.blobs.get(saved.checkpoint.claim)
    await client.delete_checkpoint(two)
    with pytest.raises(BlobMissing):
        await stage.blobs.get(saved.checkpoint.claim)


async def test_a_time_to_live_ends(stage: Stage, client: TrainerClient) -> None:
    run = await opened(client)
    saved = await run.do(msgspec.structs.replace(SAVE, ttl_seconds=1))
    assert isinstance(saved, Saved)
    assert await client.checkpoint(training(A, "one")) == saved.checkpoint
    async with asyncio.timeout(20):
        while [key async for key in stage.blobs.list(saved.checkpoint.claim.uri)]:
            await asyncio.sleep(0.1)
    with pytest.raises(NotFound):
        await client.checkpoint(training(A, "one"))
    assert await client.checkpoints(TENANT) == []
    assert isinstance(await run.do(SAVE), Saved)


async def test_a_repetition_is_the_same_operation(client: TrainerClient) -> None:
    run = await opened(client)
    await run.do(make_pass(1))
    first = await run.do(ADAM)
    step = Submission(A, TENANT, run.seq - 1, ADAM)
    for _ in range(2):
        await client.submit(step)
    assert await run.result(step.seq) == first
    with pytest.raises(OperationConflict):
        await client.submit(msgspec.structs.replace(step, operation=make_pass(2)))
    assert await run.do(ADAM) == Stepped(step=2, metrics={"grad_norm:mean": 0.0, "learning_rate:mean": 2e-3})


async def test_a_tenant_without_seconds_left_computes_no_more_passes_and_can_save(stage: Stage) -> None:
    async with stage.trainer(tenant_seconds_per_day=1e-6) as trainer, serving(trainer) as client:
        run = await opened(client)
        first = make_pass(1)
        await run.do(first)
        with pytest.raises(QuotaExceeded):
            await run.send(make_pass(2))
        await client.submit(Submission(A, TENANT, 1, first))  # what was accepted stays accepted
        await client.skip(A, TENANT, 2)
        assert isinstance(await run.do(ADAM), Stepped)
        assert isinstance(await run.do(SAVE), Saved)
        other = Run(client, B, tenant_id=OTHER)
        await other.open()
        assert isinstance(await other.do(make_pass(2)), Passed)


async def test_a_repetition_may_name_its_inputs_in_another_order(client: TrainerClient) -> None:
    run = await opened(client)
    (datum,) = make_pass(1, data=1).data
    one = {**datum.inputs, "weights": floats([1.0] * (len(datum.tokens) // 4))}
    works = [
        Pass(
            data=(Datum(tokens=datum.tokens, inputs=inputs),), loss="cross_entropy", config={}, backward=True
        )
        for inputs in (one, dict(reversed(one.items())))
    ]
    first = await run.do(works[0])
    await client.submit(Submission(A, TENANT, run.seq - 1, works[1]))
    assert await run.result(run.seq - 1) == first


async def test_operations_that_arrive_out_of_order_are_executed_in_order(client: TrainerClient) -> None:
    first, second = await opened(client), await opened(client, B)
    work = [make_pass(1), make_pass(2), ADAM, make_pass(3, backward=False)]
    calm = [await first.do(one) for one in work]
    for seq in reversed(range(1, 5)):
        await client.submit(Submission(B, TENANT, seq, work[seq - 1]))
        if seq > 1:
            outcome = await client.outcome(B, seq, wait_seconds=0)
            assert isinstance(outcome, Pending)
            assert outcome.reason == "operation 1 of this policy has not arrived yet"
    assert [await second.result(seq) for seq in range(1, 5)] == calm


async def test_a_gap_holds_back_for_a_bounded_time(stage: Stage) -> None:
    async with stage.trainer(hold_seconds=1) as trainer, serving(trainer) as client:
        run = await opened(client)
        started = time.monotonic()
        run.seq = 3
        assert isinstance(await run.do(make_pass(1)), Passed)
        assert 1.0 <= time.monotonic() - started < 10.0
        assert isinstance(await run.do(ADAM), Stepped)


async def test_what_is_wrong_with_an_operation_is_its_own(client: TrainerClient) -> None:
    bad, good = await opened(client), await opened(client, B)
    sequence = [make_pass(1), ADAM, make_pass(2, backward=False)]
    with pytest.raises(InvalidField) as refused:
        await client.submit(
            Submission(A, TENANT, 1, msgspec.structs.replace(make_pass(1), config={"clip": 1.0}))
        )
    assert refused.value.field == "loss_fn_config.clip"
    sent = [await bad.send(spoilt_pass(1))]
    results = await asyncio.gather(*(run.do(sequence[0]) for run in (bad, good)))
    sent.append(await bad.send(spoilt_pass(2)))
    results += await asyncio.gather(*(run.do(sequence[1]) for run in (bad, good)))
    results += await asyncio.gather(*(run.do(sequence[2]) for run in (bad, good)))
    assert results[0::2] == results[1::2]
    for seq in sent:
        error = await bad.refusal(seq)
        assert error["code"] == "not_finite"


async def test_sessions_are_their_tenants_and_end(client: TrainerClient) -> None:
    run = Run(client, A)
    with pytest.raises(NotFound):
        await client.submit(Submission(A, TENANT, 1, ADAM))
    with pytest.raises(NotFound):
        await client.outcome(A, 0, wait_seconds=0)
    await run.open()
    with pytest.raises(NotFound):
        await client.submit(Submission(A, OTHER, 1, ADAM))
    await run.do(Close())
    with pytest.raises(SessionClosed):
        await run.send(ADAM)


async def test_a_name_is_taken_once_unless_overwritten(stage: Stage, client: TrainerClient) -> None:
    run = await opened(client)
    first = await run.do(SAVE)
    assert isinstance(first, Saved)
    error = await run.refusal(await run.send(SAVE))
    assert (error["code"], error["retryable"]) == ("already_exists", False)
    await run.do(make_pass(1))
    await run.do(ADAM)
    second = await run.do(msgspec.structs.replace(SAVE, overwrite=True))
    assert isinstance(second, Saved)
    assert second.checkpoint.claim != first.checkpoint.claim
    assert [key async for key in stage.blobs.list(f"training/{A}/checkpoints/")] == [
        second.checkpoint.claim.uri
    ]


async def test_a_session_goes_on_from_another_s_checkpoint(client: TrainerClient) -> None:
    run = await opened(client)
    for operation in (make_pass(1), ADAM, SAVE, make_pass(2)):
        await run.do(operation)
    on = [await run.do(ADAM), await run.do(make_pass(3, backward=False))]
    branch = Run(client, B)
    from_one = Open(base=BaseName("tiny"), lora=LORA, checkpoint=training(A, "one"), with_optimizer=True)
    assert await branch.do(from_one) == Opened(step=1)
    await branch.do(make_pass(2))
    assert [await branch.do(ADAM), await branch.do(make_pass(3, backward=False))] == on
    # In place, and without the optimizer: the same weights, an optimizer that begins anew.
    assert await branch.do(Load(checkpoint=training(A, "one"), with_optimizer=False)) == Loaded(step=0)
    await branch.do(make_pass(2))
    fresh = [await branch.do(ADAM), await branch.do(make_pass(3, backward=False))]
    assert isinstance(fresh[0], Stepped)
    assert fresh[0].step == 1
    assert fresh[1] != on[1]


async def test_checkpoints_that_cannot_be_loaded_are_users_errors(client: TrainerClient) -> None:
    run = await opened(client)
    await run.do(SAVE)
    foreign = Run(client, B, tenant_id=OTHER)
    await foreign.open()
    load = Load(checkpoint=training(A, "one"), with_optimizer=True)
    assert (await foreign.refusal(await foreign.send(load)))["code"] == "not_found"
    await client.publish_checkpoint(training(A, "one"), is_public=True)
    assert await foreign.do(load) == Loaded(step=0)
    narrow = Run(client, PolicyId("policy_c"))
    await narrow.open(replace(LORA, rank=4))
    error = await narrow.refusal(await narrow.send(load))
    assert (error["code"], error["field"]) == ("invalid_field", "path")
    assert isinstance(await narrow.do(make_pass(1)), Passed)
    lost = Run(client, PolicyId("policy_d"))
    gone = Open(base=BaseName("tiny"), lora=LORA, checkpoint=training(A, "none"), with_optimizer=True)
    assert (await lost.refusal(await lost.send(gone)))["code"] == "not_found"
    with pytest.raises(SessionClosed):
        await lost.send(make_pass(1))


async def test_what_is_closed_or_never_opened_leaves_memory(stage: Stage) -> None:
    async with stage.trainer() as trainer, serving(trainer) as client:
        run = await opened(client)
        lost = Run(client, B)
        gone = Open(base=BaseName("tiny"), lora=LORA, checkpoint=training(A, "none"), with_optimizer=True)
        await lost.refusal(await lost.send(gone))
        assert (await sessions_of(trainer))["in_memory"] == {"device": 1}
        await run.do(Close())
        assert (await sessions_of(trainer))["in_memory"] == {}


async def test_exports_form_a_lineage(stage: Stage, client: TrainerClient) -> None:
    run = await opened(client)
    export = Export(name=None, ttl_seconds=None, metadata={})
    first = await run.do(export)
    same = await run.do(export)
    await run.do(make_pass(1))
    await run.do(ADAM)
    third = await run.do(export)
    events = await stage.exported(3)
    assert isinstance(first, Exported)
    assert isinstance(same, Exported)
    assert isinstance(third, Exported)
    assert [event.parent for event in events] == [None, None, first.digest]
    assert first.digest == same.digest != third.digest
    assert first.export_id != same.export_id


async def test_an_export_is_told_again_on_demand(stage: Stage, client: TrainerClient) -> None:
    run = await opened(client)
    exported = await run.do(Export(name=None, ttl_seconds=None, metadata={}))
    assert isinstance(exported, Exported)
    async with asyncio.timeout(30):
        while len(stage.seen) < 2:  # one that is not marked as told yet is not told again
            await client.repeat_export(run.policy_id, run.seq - 1)
            await client.repeat_export(run.policy_id, 77)  # there is none: nothing happens
            await asyncio.sleep(0.05)
    assert {event.export_id for event in await stage.exported(2)} == {exported.export_id}


async def test_waves_and_operations_of_a_policy_exclude_one_another(
    stage: Stage, client: TrainerClient
) -> None:
    await opened(client, A)
    await stage.publish(await stage.wave(1, policy=A))
    (failed,) = await stage.expect(1)
    assert isinstance(failed, TrainingFailed)
    assert failed.code == "policy_taken"
    await stage.publish(await stage.wave(1, policy=B))
    await stage.expect(2)
    with pytest.raises(PolicyTaken):
        await Run(client, B).open()


async def test_a_tenant_s_queue_is_bounded(stage: Stage) -> None:
    async with stage.trainer(tenant_operations=2, hold_seconds=60) as trainer, serving(trainer) as client:
        run = await opened(client)
        for seq in (3, 4):
            await client.submit(Submission(A, TENANT, seq, ADAM))
        with pytest.raises(Overloaded):
            await client.submit(Submission(A, TENANT, 5, ADAM))
        foreign = Run(client, B, tenant_id=OTHER)
        await foreign.open()
        assert run.seq == 1


async def test_results_and_what_waits_outlive_a_restart(stage: Stage) -> None:
    async with stage.trainer(hold_seconds=60) as trainer, serving(trainer) as client:
        run = await opened(client)
        passed = await run.do(make_pass(1))
        stepped = await run.do(ADAM)
        await client.submit(Submission(A, TENANT, 4, make_pass(2, backward=False)))
    async with stage.trainer() as trainer, serving(trainer) as client:
        run = Run(client, A, seq=3)
        assert [await run.result(1), await run.result(2)] == [passed, stepped]
        assert isinstance(await run.do(make_pass(3)), Passed)
        assert isinstance(await run.result(4), Passed)
        again = await opened(client, B)
        for operation in (make_pass(1), ADAM, make_pass(3)):
            await again.do(operation)
        assert await again.do(make_pass(2, backward=False)) == await run.result(4)


async def test_big_payloads_and_results_are_blobs_until_they_are_not_needed(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        run = await opened(client)
        passed = await run.do(make_pass(1, data=6000))
        assert isinstance(passed, Passed)
        assert len(passed.logprobs) == 6000
        async with asyncio.timeout(20):
            while [key async for key in stage.blobs.list(f"training/{A}/operations/")]:
                await asyncio.sleep(0.05)
        assert [key async for key in stage.blobs.list(f"training/{A}/results/")]
    rows = await stage.rows("SELECT length(payload), length(result) FROM trainer.operations WHERE seq = 1")
    assert rows[0][0] is None
    assert rows[0][1] < 1000


async def test_a_session_that_cannot_be_computed_again_stays_lost(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        run = await opened(client)
        for operation in (make_pass(1), ADAM, make_pass(2, data=6000)):
            await run.do(operation)
    (payload,) = [key async for key in stage.blobs.list(f"training/{A}/operations/")]
    await stage.blobs.delete(payload)
    async with stage.trainer() as trainer, serving(trainer) as client:
        run.client = client
        refusals = [await run.refusal(await run.send(operation)) for operation in (ADAM, SAVE)]
        assert [refusal["code"] for refusal in refusals] == ["checkpoint_lost"] * 2
        assert (await sessions_of(trainer))["in_memory"] == {}
