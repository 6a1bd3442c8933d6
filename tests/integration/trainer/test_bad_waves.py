"""What a wave that cannot be trained on costs: its job, and nothing else."""

import json
from dataclasses import replace

import pytest

from mint_common.claims import Claim
from mint_common.events import TrainingFailed
from mint_common.ids import TenantId, WaveId
from mint_common.records import WaveRecord
from services.trainer.core.algorithms.algorithm import ManagedAlgorithm

from .conftest import Stage, ref, trained

pytestmark = pytest.mark.integration


def out_of_vocabulary(record: WaveRecord) -> WaveRecord:
    first, *others = record.groups
    return replace(record, groups=(replace(first, prompt_tokens=(264,)), *others))


def wild(record: WaveRecord) -> WaveRecord:
    first, *others = record.groups
    samples = tuple(replace(s, logprobs=(-1e5,) * len(s.tokens)) for s in first.samples)
    return replace(record, groups=(replace(first, samples=samples), *others))


def of_another_wave(record: WaveRecord) -> WaveRecord:
    return replace(record, wave_id=WaveId("wave_other"))


@pytest.mark.parametrize(
    ("change", "code"),
    [(out_of_vocabulary, "record_invalid"), (wild, "not_finite"), (of_another_wave, "wave_foreign")],
)
async def test_a_bad_wave_fails_its_job_and_leaves_the_policy_alone(
    stage: Stage, change: object, code: str
) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
        bad = await stage.wave(2, change=change)  # type: ignore[arg-type]  # one of the functions above
        await stage.publish(bad)
        failed = (await stage.expect(2))[1]
        assert isinstance(failed, TrainingFailed)
        assert (failed.code, failed.wave_id, failed.job_id) == (code, bad.wave_id, bad.job_id)
        assert [row[:2] for row in await trained(stage)] == [(1, 1)]
        # The same policy goes on as if the bad wave had never been.
        good = replace(await stage.wave(2), wave_id=WaveId("wave_good"))
        record = await stage.wave(2, change=lambda record: replace(record, wave_id=WaveId("wave_good")))
        await stage.publish(replace(good, record=record.record))
        after_bad = (await stage.expect(3))[2]
        await stage.publish(await stage.wave(1, policy="policy_b"))
        await stage.publish(await stage.wave(2, policy="policy_b"))
        undisturbed = (await stage.expect(5))[4]
    assert after_bad.digest == undisturbed.digest  # type: ignore[attr-defined]  # both are exports


@pytest.mark.parametrize("kind", ["missing", "corrupt", "garbage"])
async def test_an_unreadable_record_fails_the_job(stage: Stage, kind: str, missing_claim: Claim) -> None:
    wave = await stage.wave(1)
    if kind == "missing":
        wave = replace(wave, record=missing_claim)
    elif kind == "corrupt":
        await stage.blobs.put(wave.record.uri, b"other bytes")
    else:
        wave = replace(wave, record=await stage.blobs.put("waves/garbage/record", json.dumps({}).encode()))
    async with stage.trainer():
        await stage.publish(wave)
        (failed,) = await stage.expect(1)
    assert isinstance(failed, TrainingFailed)
    assert (failed.code, wave.record.uri in failed.reason) == ("record_invalid", True)


async def test_a_bug_fails_the_job_and_leaves_the_policy_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    async with stage.trainer() as trainer:
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        trainer.dispatcher._max_attempts = 2
        with monkeypatch.context() as patched:
            patched.setattr(ManagedAlgorithm, "build_batch", broken)
            await stage.publish(await stage.wave(2, revision=ref(first, 1)))
            failed = (await stage.expect(2))[1]
        assert isinstance(failed, TrainingFailed)
        assert (failed.code, failed.reason) == ("internal", "ZeroDivisionError: division by zero")
        await stage.publish(await stage.wave(1, job="job_next", revision=ref(first, 1)))
        after = (await stage.expect(3))[2]
    assert (after.step, after.parent) == (2, first.digest)  # type: ignore[attr-defined]  # an export


async def test_another_tenant_cannot_train_the_policy(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
        await stage.publish(replace(await stage.wave(2), tenant_id=TenantId("other")))
        failed = (await stage.expect(2))[1]
    assert isinstance(failed, TrainingFailed)
    assert failed.code == "wave_foreign"


async def test_a_lost_snapshot_fails_the_job_instead_of_starting_over(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
        await stage.settled("policy_a", step=1)
    for key in await stage.snapshots():
        await stage.blobs.delete(key)
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(2))
        failed = (await stage.expect(2))[1]
    assert isinstance(failed, TrainingFailed)
    assert failed.code == "checkpoint_lost"
