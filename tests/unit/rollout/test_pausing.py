"""A job that its user pauses: it stops after the open wave and goes on where it stopped."""

from typing import Any

import pytest

from mint_common.errors import InvalidField, Unavailable
from mint_common.events import JobFinished, WaveRequested
from mint_common.ids import JobId
from services.rollout.core.job import JobState
from tests.testing.factories import JOB, POLICY
from tests.unit.rollout.file_jobs import TinyRendering, complete, completions, on_file, store, train
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import published, submitted

OTHER = JobId("job_other")


@pytest.fixture
def rig() -> Rig:
    return Rig(rendering=TinyRendering())


async def pause(rig: Rig, job_id: JobId = JOB) -> None:
    await rig.commits.pause(await rig.jobs.job(job_id))


async def resume(rig: Rig, job_id: JobId = JOB) -> Any:
    job = await rig.jobs.job(job_id)
    await rig.of_jobs.resume(job)
    return await rig.led_to_cause(f"resume:{job_id}:{job.controls}")


async def test_a_paused_job_goes_on_at_the_revision_where_it_stopped(rig: Rig) -> None:
    wave = await rig.begin(on_file(await store(rig, completions(12))))
    await pause(rig)
    assert (await rig.state_of())[0] == "running"
    await complete(rig, wave)
    assert await train(rig, wave) == []
    assert (await rig.state_of())[0] == "paused"
    (wave,) = await resume(rig)
    assert isinstance(wave, WaveRequested)
    assert (wave.step, wave.revision) == (2, published(1).revision)
    assert (await rig.state_of())[0] == "running"
    for _ in range(2):
        await complete(rig, wave)
        (wave,) = await train(rig, wave)
    assert isinstance(wave, JobFinished)


async def test_pausing_changes_no_row_of_a_later_step() -> None:
    drawn = []
    for pauses in (False, True):
        rig = Rig(rendering=TinyRendering())
        wave: Any = await rig.begin(on_file(await store(rig, completions(12)), epochs=2))
        claims = []
        while isinstance(wave, WaveRequested):
            claims.append(wave.prompts)
            if pauses:
                await pause(rig)
            await complete(rig, wave)
            led_to = await train(rig, wave) or await resume(rig)
            (wave,) = led_to
        drawn.append(claims)
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 6


async def test_a_pause_is_taken_back_before_it_comes(rig: Rig) -> None:
    wave = await rig.begin(submitted())
    for _ in range(2):
        await pause(rig)
        assert await resume(rig) == []
    await pause(rig)
    await pause(rig)
    await resume(rig)
    assert not (await rig.jobs.job(JOB)).is_pausing
    await complete(rig, wave)
    (after,) = await train(rig, wave)
    assert isinstance(after, WaveRequested)


async def test_the_last_step_ends_a_job_that_is_pausing(rig: Rig) -> None:
    wave = await rig.begin(submitted(steps=1))
    await pause(rig)
    await complete(rig, wave)
    (end,) = await train(rig, wave)
    assert isinstance(end, JobFinished)
    job = await rig.jobs.job(JOB)
    assert (job.state, job.is_pausing) == (JobState.SUCCEEDED, False)


async def test_a_job_paused_midway_holds_its_policy_and_one_that_waits_does_not(rig: Rig) -> None:
    wave = await rig.begin(submitted())
    await rig.of_jobs.on_job_submitted(submitted(job_id=OTHER))
    await pause(rig)
    await complete(rig, wave)
    await train(rig, wave)
    assert await rig.jobs.next_of(POLICY) is None
    assert await rig.jobs.overdue(before=rig.clock.now() + 1) == []
    await rig.commits.cancel(JOB)
    (end,) = await rig.led_to_cause(f"cancel:{JOB}")
    assert isinstance(end, JobFinished)  # there is no wave to cancel
    await rig.of_jobs.on_job_finished(end)
    assert (await rig.state_of(OTHER))[0] == "running"


async def test_a_job_that_is_paused_before_its_turn_lets_others_pass(rig: Rig) -> None:
    first = submitted()
    await rig.of_jobs.on_job_submitted(first)
    for job_id in (OTHER, JobId("job_third")):
        await rig.of_jobs.on_job_submitted(submitted(job_id=job_id))
    await pause(rig, OTHER)
    await rig.commits.cancel(JOB)
    await rig.of_jobs.start_next(POLICY)
    assert (await rig.state_of(OTHER))[0] == "paused"
    assert (await rig.state_of(JobId("job_third")))[0] == "running"
    await resume(rig, OTHER)
    assert (await rig.state_of(OTHER))[0] == "submitted"
    await rig.commits.cancel(JobId("job_third"))
    await rig.of_jobs.start_next(POLICY)
    assert (await rig.state_of(OTHER))[0] == "running"


async def test_a_pause_that_is_taken_back_while_a_job_starts_does_not_undo_later_ones(rig: Rig) -> None:
    async def pause_and_resume() -> None:
        rig.policies.at_question = None
        await pause(rig)
        await rig.commits.resume(await rig.jobs.job(JOB), {})

    rig.policies.at_question = pause_and_resume
    await rig.begin(submitted())
    await pause(rig)
    job = await rig.jobs.job(JOB)
    assert (job.state, job.is_pausing, job.controls) == (JobState.RUNNING, True, 3)


async def test_a_job_that_stops_while_it_is_resumed_is_resumed_by_the_next_try(rig: Rig) -> None:
    wave = await rig.begin(submitted())
    read = await rig.jobs.job(JOB)
    await pause(rig)
    await complete(rig, wave)
    await train(rig, wave)
    with pytest.raises(Unavailable, match="the job has moved on just now"):
        await rig.of_jobs.resume(read)
    (wave,) = await resume(rig)
    assert wave.step == 2


async def test_a_job_that_has_ended_is_neither_paused_nor_resumed(rig: Rig) -> None:
    await rig.begin(submitted())
    await rig.commits.cancel(JOB)
    for control in (pause, resume):
        with pytest.raises(InvalidField, match="it has ended \\(cancelled\\)"):
            await control(rig)


async def test_a_stalled_watch_leaves_a_paused_job_alone(rig: Rig) -> None:
    wave = await rig.begin(submitted())
    await pause(rig)
    await complete(rig, wave)
    await train(rig, wave)
    await rig.clock.advance(1000)
    assert await rig.jobs.claim_stalled(before=rig.clock.now(), waiting_since=None, now=rig.clock.now()) == []
    assert not await rig.jobs.touch(JOB, now=rig.clock.now())
