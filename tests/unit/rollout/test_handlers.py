"""What handlers write, emit and wait for."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mint_common.errors import (
    NotFound,
    Overloaded,
    Unavailable,
)
from mint_common.events import JobFinished, WaveCancelled, WaveCompleted, WaveRequested
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.records import decode_prompts, decode_record
from tests.testing.factories import JOB
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import (
    EOS,
    LocalTasks,
    ScriptedEngine,
    published,
    rejected,
    submitted,
    tokens_of,
    training_failed,
)

FULL = Overloaded(what="the cold queue", depth=64, retry_after_seconds=2)
AWAY = Unavailable(what="an engine of base tiny", problem="no loader that answers serves it")


async def test_a_submission_requests_the_first_wave_with_prompts_of_the_train_split() -> None:
    rig = Rig()
    wave = await rig.begin(submitted(prompts_per_step=64))
    prompts = decode_prompts(await rig.blobs.get(wave.prompts))
    assert (wave.step, wave.revision, len(prompts)) == (1, None, 64)
    words = [prompt.text.removeprefix("f ").removesuffix("=") for prompt in prompts]
    assert all(hashlib.sha256(word.encode()).digest()[0] >= 26 for word in words)
    assert await rig.state_of() == ("running", "")


async def test_a_wave_is_sampled_scored_and_recorded() -> None:
    rig = Rig(engine=ScriptedEngine(answer=lambda prompt, seed: prompt[2:-1] if seed % 2 else "no"))
    event = submitted(prompts_per_step=3, group_size=4)
    wave = await rig.begin(event)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (done,) = await rig.led_to(wave)
    assert isinstance(done, WaveCompleted)
    record = decode_record(await rig.blobs.get(done.record))
    prompts = decode_prompts(await rig.blobs.get(wave.prompts))
    assert (record.wave_id, record.revision, done.reward_mean) == (wave.wave_id, None, 0.5)
    assert [group.prompt_tokens for group in record.groups] == [tokens_of(prompt.text) for prompt in prompts]
    for group in record.groups:
        assert [sample.reward for sample in group.samples] in ([1.0, 0.0] * 2, [0.0, 1.0] * 2)
        assert all(len(sample.tokens) == len(sample.logprobs) for sample in group.samples)
        assert all(sample.tokens[-1] == EOS for sample in group.samples)
    assert {(request.n, request.temperature, request.max_new_tokens) for request in rig.engine.requests} == {
        (4, 1.0, event.spec.max_new_tokens)
    }
    assert len({request.seed for request in rig.engine.requests}) == 3
    assert rig.counts == {"waves": 1, "samples": 12}


async def test_the_next_wave_samples_at_the_published_revision_and_the_record_says_so() -> None:
    rig = Rig()
    first = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(first))
    await rig.of_jobs.on_revision_published(published(1))
    (second,) = await rig.led_to(published(1))
    assert isinstance(second, WaveRequested)
    assert second.revision == published(1).revision
    await rig.let_pass(rig.of_waves.on_wave_requested(second))
    (done,) = await rig.led_to(second)
    assert isinstance(done, WaveCompleted)
    record = decode_record(await rig.blobs.get(done.record))
    assert record.revision == published(1).revision.digest
    assert first.prompts.sha256 != second.prompts.sha256
    waves = await rig.jobs.waves_of(JOB)
    assert [wave.state.value for wave in waves] == ["published", "completed"]
    assert waves[0].metrics == published(1).metrics


async def test_every_event_can_come_twice() -> None:
    rig = Rig()
    event = submitted(steps=1)
    wave = await rig.begin(event)
    for _ in range(2):
        await rig.of_jobs.on_job_submitted(event)
        await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    samples = len(rig.engine.requests)
    for _ in range(2):
        await rig.of_jobs.on_revision_published(published(1))
        await rig.of_waves.on_wave_requested(wave)
    assert len(rig.engine.requests) == samples == 2
    assert [type(row).__name__ for row in await rig.led_to(published(1))] == ["JobFinished"]
    assert len(rig.ledger.rows) == 3
    assert await rig.state_of() == ("succeeded", "")


async def test_a_second_job_of_a_policy_waits_and_then_begins_at_what_the_first_one_made() -> None:
    rig = Rig()
    second = JobId("job_second")
    await rig.begin(submitted(steps=1))
    await rig.of_jobs.on_job_submitted(submitted(job_id=second))
    assert await rig.state_of(second) == ("submitted", "")
    rig.policies.newest = published(1).revision
    await rig.of_jobs.on_revision_published(published(1))
    (end,) = await rig.led_to(published(1))
    assert isinstance(end, JobFinished)
    await rig.of_jobs.on_job_finished(end)
    (wave,) = await rig.started(second)
    assert isinstance(wave, WaveRequested)
    assert (wave.job_id, wave.revision) == (second, published(1).revision)
    assert await rig.state_of(second) == ("running", "")


async def test_jobs_of_other_policies_do_not_wait() -> None:
    rig = Rig()
    await rig.begin(submitted())
    await rig.begin(submitted(job_id=JobId("job_other"), policy_id=PolicyId("pol_other")))


async def test_a_waiting_job_is_cancelled_and_never_starts() -> None:
    rig = Rig()
    first, second, third = JOB, JobId("job_second"), JobId("job_third")
    await rig.begin(submitted())
    for job_id in (second, third):
        await rig.clock.advance(1)
        await rig.of_jobs.on_job_submitted(submitted(job_id=job_id))
    await rig.commits.cancel(second)
    await rig.commits.cancel(first)
    for job_id in (second, first):
        *_, end = await rig.led_to_cause(f"cancel:{job_id}")
        assert isinstance(end, JobFinished)
        await rig.of_jobs.on_job_finished(end)
    assert await rig.state_of(second) == ("cancelled", "cancelled by its user")
    assert not await rig.ledger.is_known(f"start:{second}")
    assert len(await rig.started(third)) == 1


async def test_both_copies_of_a_wave_at_once_leave_one_completion() -> None:
    rig = Rig()
    wave = await rig.begin(submitted())
    twice = asyncio.gather(rig.of_waves.on_wave_requested(wave), rig.of_waves.on_wave_requested(wave))
    await rig.let_pass(_await(twice))
    assert len(await rig.led_to(wave)) == 1


async def test_a_wave_that_is_sampled_again_with_other_answers_leaves_the_committed_record() -> None:
    rig = Rig()
    wave = await rig.begin(submitted())
    again = Rig(jobs=rig.jobs, blobs=rig.blobs, engine=ScriptedEngine(answer=lambda prompt, seed: "other"))
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (done,) = await rig.led_to(wave)
    assert isinstance(done, WaveCompleted)
    await again.let_pass(again.of_waves.on_wave_requested(wave))  # its ledger does not know of the first
    assert decode_record(await rig.blobs.get(done.record)).wave_id == wave.wave_id


async def test_a_job_of_an_unknown_task_fails_naming_it() -> None:
    rig = Rig()
    event = submitted(task="mode:copi")
    await rig.of_jobs.on_job_submitted(event)
    (end,) = await rig.started()
    assert isinstance(end, JobFinished)
    assert end.outcome == "failed"
    assert end.reason.startswith("No task named 'mode:copi'. There is: mode:copy")
    assert await rig.state_of() == ("failed", end.reason)


@pytest.mark.parametrize("place", ["init", "prompts", "reward", "nan"])
async def test_a_task_that_breaks_fails_the_job_with_the_reason(place: str) -> None:
    rig = Rig(tasks=LocalTasks({"broken": "tests.unit.rollout.broken_tasks:Broken"}))
    await rig.of_jobs.on_job_submitted(submitted(task=f"broken:{place}"))
    (event,) = await rig.started()
    if isinstance(event, WaveRequested):
        await rig.let_pass(rig.of_waves.on_wave_requested(event))
    state, reason = await rig.state_of()
    assert state == "failed"
    assert f"Task 'broken:{place}' failed: " in reason


async def test_a_job_of_an_unknown_policy_fails_and_an_absent_registry_is_waited_for() -> None:
    rig = Rig()
    rig.policies.trouble = Unavailable(what="the registry", problem="connection refused")
    with pytest.raises(Unavailable):
        await rig.of_jobs.on_job_submitted(submitted())
    assert await rig.state_of() == ("submitted", "")
    rig.policies.trouble = NotFound(kind="policy", name="pol_x")
    await rig.of_jobs.on_job_submitted(submitted())
    assert await rig.state_of() == ("failed", "No policy named 'pol_x'.")


async def test_a_job_of_a_trained_policy_begins_at_its_newest_revision() -> None:
    rig = Rig()
    rig.policies.newest = published(7).revision
    assert (await rig.begin(submitted())).revision == published(7).revision


class HugeRewards(LocalTasks):
    """Tasks whose rewards no float can hold the sum of."""

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return rewards that are finite one by one."""
        return [1.7e308 for _ in answers]


async def test_an_error_of_ours_cancels_the_wave_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(tasks=HugeRewards())
    wave = await rig.begin(submitted())
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    assert await rig.state_of() == ("failed", "wave cancelled: internal error: OverflowError")
    (logged,) = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
    assert (logged["message"], logged["job_id"], logged["wave_id"]) == ("wave cancelled", JOB, wave.wave_id)
    assert logged["error"].startswith("OverflowError at statistics.py:")
    assert rig.counts == {"cancelled": 1}


async def test_a_rejected_revision_and_a_failed_training_fail_the_job() -> None:
    for fact in (rejected(1), training_failed(1)):
        rig = Rig()
        await rig.begin(submitted())
        await rig.of_jobs.on_step_failed(fact)
        state, reason = await rig.state_of()
        assert state == "failed"
        assert fact.reason in reason
        assert [wave.state.value for wave in await rig.jobs.waves_of(JOB)] == ["failed"]


async def test_exports_that_no_job_asked_for_are_none_of_our_business() -> None:
    rig = Rig()
    by_hand = replace(published(1), job_id=None, wave_id=None)
    await rig.of_jobs.on_revision_published(by_hand)
    await rig.of_jobs.on_step_failed(rejected(1))
    assert not await rig.ledger.is_known(by_hand.id)
    assert rig.ledger.rows == []


async def test_cancelling_a_job_ends_the_wait_for_an_engine_that_never_comes() -> None:
    rig = Rig()
    rig.engine.troubles = [AWAY] * 10_000
    wave = await rig.begin(submitted())
    working = asyncio.create_task(rig.of_waves.on_wave_requested(wave))
    await rig.clock.advance(60)
    assert not working.done()
    await rig.commits.cancel(JOB)
    await rig.commits.cancel(JOB)
    await rig.let_pass(_await(working))
    assert not await rig.ledger.is_known(wave.id)
    assert await rig.state_of() == ("cancelled", "cancelled by its user")
    assert [wave.state.value for wave in await rig.jobs.waves_of(JOB)] == ["cancelled"]
    ends = await rig.led_to_cause(f"cancel:{JOB}")
    assert [type(event) for event in ends] == [WaveCancelled, JobFinished]


async def test_a_revision_published_after_the_cancellation_is_noted_and_leads_nowhere() -> None:
    rig = Rig()
    await rig.begin(submitted())
    await rig.commits.cancel(JOB)
    await rig.of_jobs.on_revision_published(published(1))
    assert await rig.led_to(published(1)) == []
    (wave,) = await rig.jobs.waves_of(JOB)
    assert wave.revision == published(1).revision


async def test_a_drain_gives_back_the_wave_in_hand() -> None:
    rig = Rig()
    rig.engine.troubles = [AWAY] * 10_000
    wave = await rig.begin(submitted())
    working = asyncio.create_task(rig.of_waves.on_wave_requested(wave))
    await rig.clock.advance(1)
    rig.of_waves.drain()
    with pytest.raises(Unavailable, match="draining"):
        await working
    assert not await rig.ledger.is_known(wave.id)
    assert await rig.state_of() == ("running", "")


@pytest.mark.parametrize("start", [(), (1,)])
async def test_sft_records_the_reference_answers_with_the_stop_token_and_no_logprobs(
    start: tuple[int, ...],
) -> None:
    rig = Rig(engine=ScriptedEngine(start=start))
    wave = await rig.begin(submitted(algorithm="sft", task="mode:rev", group_size=1, prompts_per_step=4))
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (done,) = await rig.led_to(wave)
    assert isinstance(done, WaveCompleted)
    record = decode_record(await rig.blobs.get(done.record))
    prompts = decode_prompts(await rig.blobs.get(wave.prompts))
    assert done.reward_mean == 1.0
    for group, prompt in zip(record.groups, prompts, strict=True):
        (sample,) = group.samples
        assert group.prompt_tokens == (*start, *tokens_of(prompt.text))
        assert (sample.tokens, sample.logprobs) == ((*tokens_of(prompt.reference), EOS), ())
    assert rig.engine.requests == []


async def test_a_wave_of_an_unknown_job_is_an_error() -> None:
    rig = Rig()
    wave = await rig.begin(submitted())
    with pytest.raises(NotFound):
        await Rig().of_waves.on_wave_requested(wave)


async def _await(work: "asyncio.Future[object]") -> object:
    return await work
