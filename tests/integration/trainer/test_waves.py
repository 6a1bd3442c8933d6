"""A wave comes in over NATS, an export goes out: once, in order, from committed state only."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from mint_common.adapters_format import check_adapter, fetch_manifest, read_base_facts
from mint_common.claims import Claim
from mint_common.events import TrainingFailed, WaveCancelled
from services.trainer.adapters.policies import resident_policies
from services.trainer.app import Trainer
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import intake_of

from .conftest import LORA, SPEC, TINY, Stage, ref, trained

pytestmark = pytest.mark.integration


async def test_a_wave_becomes_an_export_that_fits_the_base(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (exported,) = await stage.exported(1)
    manifest = await fetch_manifest(stage.blobs, exported.manifest)
    folder = exported.manifest.uri.rpartition("/")[0]
    proof = manifest.files["adapter_model.safetensors"]
    weights = await stage.blobs.get(
        Claim(uri=f"{folder}/adapter_model.safetensors", sha256=proof.sha256, size_bytes=proof.size_bytes)
    )
    check_adapter(read_base_facts(TINY), manifest, weights)
    assert (exported.step, exported.parent, exported.digest) == (1, None, manifest.digest)
    assert exported.export_id == exported.wave_id
    assert (manifest.rank, manifest.targets) == (LORA.rank, LORA.targets)
    expected = {"loss", "grad_norm", "reward_mean", "ratio_max_error", "tokens", "skipped_groups", "seconds"}
    assert expected <= exported.metrics.keys()
    assert exported.metrics["trained_tokens"] > 0


async def test_steps_form_a_lineage_and_keep_one_snapshot(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        _, second = await stage.exported(2)
        await stage.settled("policy_a", step=2)
    assert (second.step, second.parent) == (2, first.digest)
    assert second.digest != first.digest


async def test_a_wave_is_three_operations_of_its_policy_s_log(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
        await stage.publish(await stage.wave(2, skipped=True))
        await stage.exported(2)
    rows = await stage.rows("SELECT seq, kind, position, is_refused FROM trainer.operations ORDER BY seq")
    kinds = ("wave_pass", "step", "wave_export", "wave_pass", "wave_export")
    assert [tuple(row) for row in rows] == [(n, kind, n + 1, False) for n, kind in enumerate(kinds)]


async def test_a_wave_delivered_twice_is_trained_once(stage: Stage) -> None:
    async with stage.trainer():
        wave = await stage.wave(1)
        await stage.publish(wave)
        (first,) = await stage.exported(1)
        await stage.publish(wave, copy="again")
        _, repeated = await stage.exported(2)
    assert repeated == first
    assert await trained(stage) == [(1, 1, 3)]


async def test_a_wave_repeated_while_it_is_under_way_is_trained_once(stage: Stage) -> None:
    async with stage.trainer():
        wave = await stage.wave(1)
        for copy in ("", "again", "and again"):
            await stage.publish(wave, copy=copy)
        (first,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        async with asyncio.timeout(30), stage.news:
            await stage.news.wait_for(lambda: stage.seen[-1] != first)
    assert await trained(stage) == [(2, 2, 6)]


async def test_a_trainer_that_starts_again_goes_on_bitwise(stage: Stage) -> None:
    async with stage.trainer():
        for step in (1, 2, 3):
            await stage.publish(await stage.wave(step, policy="policy_a"))
        undisturbed = await stage.exported(3)
    for step in (1, 2, 3):
        async with stage.trainer():
            await stage.publish(await stage.wave(step, policy="policy_b"))
            restarted = (await stage.exported(3 + step))[3:]
    assert [event.digest for event in restarted] == [event.digest for event in undisturbed]


async def test_two_policies_do_not_touch_each_other(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0):
        for step in (1, 2):
            await stage.publish(await stage.wave(step, policy="policy_a"))
            await stage.publish(await stage.wave(step, policy="policy_b"))
        events = await stage.exported(4)
        for policy in ("policy_a", "policy_b"):
            await stage.settled(policy, step=2)
    by_policy = {name: [e.digest for e in events if e.policy_id == name] for name in ("policy_a", "policy_b")}
    assert by_policy["policy_a"] == by_policy["policy_b"]


async def test_waves_of_many_policies_at_once_are_stepped_together(stage: Stage) -> None:
    names = [f"policy_{number}" for number in range(6)]
    async with stage.trainer():
        await stage.publish(await stage.wave(1, policy="policy_alone"))
        (alone,) = await stage.exported(1)
    before = batches()
    async with stage.trainer(batch_policies=8, resident_policies=8) as trainer:
        for step in (1, 2):
            for name in names:
                await stage.publish(await stage.wave(step, policy=name))
        exported = (await stage.exported(13))[1:]
        found = await sessions_of(trainer)
    assert [(s["policy_id"], s["step"], s["tier"]) for s in found["sessions"] if s["step"] == 2] == [
        (name, 2, "device") for name in names
    ]
    for name in names:
        first, second = [event for event in exported if event.policy_id == name]
        assert (first.step, second.step, second.parent) == (1, 2, first.digest)
        for metric in ("loss", "grad_norm", "ratio_max_error"):
            assert first.metrics[metric] == pytest.approx(alone.metrics[metric], rel=1e-4)
    # Twelve steps in fewer batches: what had arrived while one was computed went together.
    assert batches() - before < 12


async def test_policies_beyond_the_device_are_swapped_and_go_on_bitwise(stage: Stage) -> None:
    names = ["policy_a", "policy_b", "policy_c"]
    async with stage.trainer(snapshot_seconds=0, resident_policies=1, host_policies=1) as trainer:
        for step in (1, 2):
            for name in names:
                await stage.publish(await stage.wave(step, policy=name))
                await stage.exported(len(names) * (step - 1) + names.index(name) + 1)
        events = await stage.exported(6)
        async with asyncio.timeout(30):
            # A policy may leave memory once its snapshot is stored.
            while tiers_in(found := await sessions_of(trainer)) != ["device", "host", "stored"]:
                await asyncio.sleep(0.02)
    assert found["swaps"]["count"] >= 5
    assert found["swaps"]["bytes"] > 0
    digests = {name: [e.digest for e in events if e.policy_id == name] for name in names}
    assert digests["policy_a"] == digests["policy_b"] == digests["policy_c"]


def tiers_in(found: Any) -> list[str]:  # decoded JSON
    return sorted(session["tier"] for session in found["sessions"])


def batches() -> float:
    """Return how many batched steps this process has taken."""
    return REGISTRY.get_sample_value("mint_trainer_batch_policies_count") or 0.0


async def sessions_of(trainer: Trainer) -> Any:  # decoded JSON
    transport = httpx.ASGITransport(app=trainer.http)
    headers = {"x-mint-internal-token": "secret"}
    async with httpx.AsyncClient(transport=transport, base_url="http://trainer", headers=headers) as client:
        return (await client.get("/internal/sessions")).json()


async def test_a_wave_of_skipped_groups_exports_the_same_revision_again(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, skipped=True))
        _, again = await stage.exported(2)
        await stage.publish(await stage.wave(3))
        *_, third = await stage.exported(3)
    assert (again.digest, again.step, again.parent) == (first.digest, 1, None)
    assert again.metrics["trained_tokens"] == 0
    assert again.manifest.sha256 == first.manifest.sha256
    assert (third.step, third.parent) == (2, first.digest)


async def test_a_job_after_a_rejected_export_begins_where_the_policy_is(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        (rejected,) = await stage.exported(1)
        await stage.publish(await stage.wave(1, job="job_next"))
        _, again = await stage.exported(2)
        await stage.publish(await stage.wave(2, job="job_next", revision=ref(again, 1)))
        *_, third = await stage.exported(3)
        await stage.settled("policy_a", step=2)
    # Nothing of the rejected step is left: the same record leads to the same export.
    assert (again.digest, again.step, again.parent) == (rejected.digest, 1, None)
    assert (third.step, third.parent) == (2, again.digest)


@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "after a restart"])
async def test_a_job_after_one_cancelled_in_mid_step_begins_at_the_newest_published_revision(
    stage: Stage, *, restarted: bool
) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        _, unpublished = await stage.exported(2)
        if not restarted:
            await stage.publish(await stage.wave(1, job="job_next", record_seed=2, revision=ref(first, 1)))
            await stage.exported(3)
    async with stage.trainer():
        if restarted:
            await stage.publish(await stage.wave(1, job="job_next", record_seed=2, revision=ref(first, 1)))
        *_, next_one = await stage.exported(3)
    # The same weights read the same record: how far they are from the sampler says so.
    for metric in ("loss", "ratio_max_error", "grad_norm"):
        assert next_one.metrics[metric] == pytest.approx(unpublished.metrics[metric], rel=1e-5)
    assert (next_one.step, next_one.parent) == (3, first.digest)


async def test_a_cancelled_wave_that_waits_is_not_trained_on(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(wave := await stage.wave(1))
        (first,) = await stage.exported(1)
        late = await stage.wave(2, revision=ref(first, 1))
        for one in (wave, late):  # of the first, which is trained on, this comes too late
            facts = {name: getattr(one, name) for name in ("tenant_id", "base", "job_id", "policy_id")}
            await stage.publish(WaveCancelled(**facts, wave_id=one.wave_id, reason="by its user"))
        async with asyncio.timeout(30):
            while not await stage.rows(_INTAKE, intake_of(late.wave_id)):
                await asyncio.sleep(0.02)
        await stage.publish(late)
        await stage.publish(await stage.wave(1, job="job_next", revision=ref(first, 1)))
        _, next_one = await stage.exported(2)
    assert (next_one.job_id, next_one.step, next_one.parent) == ("job_next", 2, first.digest)
    assert await trained(stage) == [(2, 2, 6)]


_INTAKE = "SELECT 1 FROM trainer.mint_inbox WHERE cause = $1"


async def test_a_revision_of_another_shape_is_refused_and_the_policy_kept(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (own,) = await stage.exported(1)
        wide = replace(LORA, rank=4)
        await stage.publish(replace(await stage.wave(1, policy="policy_b"), lora=wide))
        _, foreign = await stage.exported(2)
        await stage.publish(await stage.wave(1, job="job_next", revision=ref(foreign, 2)))
        failed = (await stage.expect(3))[2]
        assert isinstance(failed, TrainingFailed)
        assert (failed.code, foreign.digest in failed.reason) == ("revision_foreign", True)
        await stage.publish(await stage.wave(1, job="job_third", revision=ref(own, 1)))
        last = (await stage.expect(4))[3]
    assert (last.step, last.parent) == (2, own.digest)  # type: ignore[attr-defined]  # an export


async def test_a_fresh_policy_begins_at_the_revision_that_was_uploaded(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (uploaded,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, revision=ref(uploaded, 1)))
        _, own = await stage.exported(2)
        wave = await stage.wave(1, policy="policy_b", record_seed=2, revision=ref(uploaded, 1))
        await stage.publish(wave)
        *_, other = await stage.exported(3)
    for metric in ("loss", "ratio_max_error"):
        assert other.metrics[metric] == pytest.approx(own.metrics[metric], rel=1e-5)
    assert (other.step, other.parent) == (2, uploaded.digest)


async def test_a_job_keeps_the_optimizer_s_moments_or_resets_them(stage: Stage) -> None:
    """A job that resets them steps as a new policy does that begins at the same revision."""
    reset = replace(SPEC, optimizer="reset")
    specs = {"policy_a": reset, "policy_b": SPEC, "policy_c": SPEC}
    async with stage.trainer():
        for number, policy in enumerate(["policy_a", "policy_c"], start=1):
            await stage.publish(await stage.wave(1, policy=policy))
            begun = (await stage.exported(number))[0]
        for number, (policy, spec) in enumerate(specs.items(), start=3):
            facts = {"policy": policy, "record_seed": 2, "revision": ref(begun, 1), "spec": spec}
            await stage.publish(await stage.wave(1, job=f"job_of_{policy}", **facts))
            exports = await stage.exported(number)
        resetting, fresh, keeping = exports[2:]
        wave = await stage.wave(2, job="job_of_policy_a", revision=ref(resetting, 2), spec=reset)
        await stage.publish(wave)
        *_, second = await stage.exported(6)
    assert resetting.digest == fresh.digest != keeping.digest
    assert (resetting.step, second.step, second.parent) == (2, 3, resetting.digest)
    query = "SELECT kind FROM trainer.operations WHERE policy_id = $1 ORDER BY seq"
    of_a_wave = ["wave_pass", "step", "wave_export"]
    kinds = [row[0] for row in await stage.rows(query, "policy_a")]
    assert kinds == [*of_a_wave, "load_revision", *of_a_wave, *of_a_wave]


async def test_a_wave_from_the_future_waits_for_its_turn(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(2))
        await stage.publish(await stage.wave(1))
        events = await stage.exported(2)
    assert [event.step for event in events] == [1, 2]
    assert events[1].parent == events[0].digest


async def test_a_lost_orphan_of_a_crash_is_pruned(stage: Stage) -> None:
    await stage.blobs.put("training/policy_a/snapshots/0-0000.safetensors", b"left by a crash")
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
        await stage.settled("policy_a", step=1, snapshots=2)
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(2))
        await stage.exported(2)
        await stage.settled("policy_a", step=2)


async def test_a_cancelled_computation_is_done_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out, cancelled = resident_policies.carry_out, list[bool]()

    def cancel_first(base: Any, tiers: Any, tasks: Any, *more: Any, **options: Any) -> Any:
        if not cancelled and any(isinstance(task.work, WaveBatch) for task in tasks):
            cancelled.append(True)
            raise asyncio.CancelledError
        return carry_out(base, tiers, tasks, *more, **options)

    monkeypatch.setattr(resident_policies, "carry_out", cancel_first)
    async with stage.trainer():
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
    assert (cancelled, first.step) == ([True], 1)


async def test_waves_that_come_before_their_turn_hold_up_no_other_policy(stage: Stage) -> None:
    """Each would wait for its predecessor; more than all that the trainer takes in at a time."""
    ahead = replace(SPEC, staleness=2)
    async with stage.trainer(batch_policies=2):
        for number in range(24):
            await stage.publish(await stage.wave(2, policy=f"policy_{number}", spec=ahead))
        await asyncio.sleep(1)  # they are in hand
        await stage.publish(await stage.wave(1, policy="policy_due"))
        async with asyncio.timeout(12):
            (exported,) = await stage.exported(1)
        assert exported.policy_id == "policy_due"
        await stage.publish(await stage.wave(1, policy="policy_3", spec=ahead))
        later = await stage.exported(3)
    assert [event.policy_id for event in later[1:]] == ["policy_3", "policy_3"]
