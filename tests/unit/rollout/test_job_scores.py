"""Jobs that are measured by sampling: their runs, and how they end."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mint_common.errors import NotFound
from mint_common.events import EarlyStopping, JobFinished, WaveCancelled, WaveRequested
from mint_common.ids import TenantId
from services.rollout.core.evaluation import EvaluationRun, RunState
from services.rollout.core.job import JobState
from services.rollout.core.job_control import is_over
from services.rollout.core.job_scores import on_score, suite_of
from services.rollout.handlers.job_scores import JobScores
from tests.testing.factories import JOB, TENANT
from tests.unit.rollout.file_jobs import EVALUATION, TinyRendering, complete, on_file, store, train
from tests.unit.rollout.memory_jobs import MemoryJobs
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.test_graded_jobs import questions
from tests.unit.rollout.world import ScriptedEngine, published

PLAN = replace(EVALUATION, metric="valid_reward_mean")


class MemoryRuns:
    """Runs that end when a test says so."""

    def __init__(self, jobs: MemoryJobs) -> None:
        self.jobs = jobs
        self.stored: dict[str, EvaluationRun] = {}

    async def add(self, runs: Sequence[EvaluationRun], *, max_open: int | None) -> list[EvaluationRun]:
        assert max_open is None
        return [self.stored.setdefault(run.run_id, run) for run in runs]

    async def cancel_of_ended_jobs(self, *, now: float) -> None:
        ended = {suite_of(job) for job in await self.jobs.jobs_of(TENANT, limit=9) if is_over(job)}
        for run in self.stored.values():
            if run.suite in ended and run.state is RunState.RUNNING:
                self.stored[run.run_id] = replace(run, state=RunState.CANCELLED)

    async def run(self, tenant_id: TenantId, run_id: str) -> EvaluationRun:
        if run_id not in self.stored:
            raise NotFound(kind="evaluation run", name=run_id)
        return self.stored[run_id]

    def end(self, number: int, value: float | None, state: RunState = RunState.SUCCEEDED) -> None:
        """End the run of a revision."""
        (found,) = [run for run in self.stored.values() if run.revision == published(number).revision]
        ended = replace(found, state=state, value=value, scored=3 if value is not None else 0)
        self.stored[found.run_id] = ended


class Measured(Rig):
    """A rig with the runs of its jobs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.runs = MemoryRuns(self.jobs)
        self.job_scores = JobScores(
            commits=self.commits,
            runs=self.runs,  # type: ignore[arg-type]  # only what jobs need of them
        )


@pytest.fixture
def rig() -> Measured:
    return Measured(rendering=TinyRendering(), engine=ScriptedEngine(answer=lambda _, seed: str(seed % 2)))


async def take_steps(rig: Measured, wave: Any, steps: Sequence[int]) -> Any:
    """Train these steps; return what follows, None if nothing does."""
    led_to: list[object] = []
    for _ in steps:
        await complete(rig, wave)
        led_to = await train(rig, wave)
        await rig.job_scores.check()
        wave = led_to[0] if led_to else None
    return wave


async def begun(rig: Measured, **plan: Any) -> WaveRequested:
    file = await store(rig, questions(20))
    return await rig.begin(on_file(file, evaluation=replace(PLAN, **plan)))


async def test_a_measured_revision_is_run_over_the_validation_rows(rig: Measured) -> None:
    wave = await begun(rig)
    await take_steps(rig, wave, [1, 2])
    await rig.job_scores.check()
    (run,) = rig.runs.stored.values()
    assert (run.suite, run.metric, run.n) == (f"job:{JOB}", "valid_reward_mean", 3)
    assert run.revision == published(2).revision
    assert run.data is not None
    assert wave.spec.data is not None
    assert (run.data.file, run.data.holdout) == (wave.spec.data.training, 0.2)
    assert (run.data.grader, run.caller.tenant_id) == (wave.spec.data.grader, TENANT)


async def test_a_validation_file_is_run_whole(rig: Measured) -> None:
    file = await store(rig, questions(5), "valid.jsonl")
    await take_steps(rig, await begun(rig, file=file), [1, 2])
    (run,) = rig.runs.stored.values()
    assert run.data is not None
    assert (run.data.file, run.data.holdout) == (file, 0.0)


@pytest.mark.parametrize(("values", "chosen"), [((0.75, 0.5), 2), ((0.5, 0.75), 4), ((None, 0.1), 4)])
async def test_a_job_waits_for_its_scores_and_keeps_the_best(
    rig: Measured, values: tuple[float | None, float], chosen: int
) -> None:
    assert await take_steps(rig, await begun(rig), [1, 2, 3, 4]) is None
    await rig.job_scores.check()
    for number, value in zip((2, 4), values, strict=True):
        assert await rig.state_of() == ("running", "")
        rig.runs.end(number, value, RunState.SUCCEEDED if value is not None else RunState.FAILED)
        await rig.job_scores.check()
        await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.state, job.result) == (JobState.SUCCEEDED, published(chosen).revision)
    found = [wave.metrics.get("valid_reward_mean") for wave in await rig.jobs.waves_of(JOB)]
    assert found == [None, values[0], None, values[1]]
    (end,) = await rig.led_to_cause(f"scored:{list(rig.runs.stored)[1]}")
    assert isinstance(end, JobFinished)


async def test_a_run_that_its_tenant_cancelled_holds_nothing_up(rig: Measured) -> None:
    await take_steps(rig, await begun(rig), [1, 2, 3, 4])
    for number in (2, 4):
        rig.runs.end(number, None, RunState.CANCELLED)
    await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.state, job.result) == (JobState.SUCCEEDED, published(4).revision)


async def test_a_job_that_waits_for_scores_makes_no_noise_and_is_cancelled(rig: Measured) -> None:
    await take_steps(rig, await begun(rig), [1, 2, 3, 4])
    for _ in range(30):
        await rig.clock.advance(1.0)
        await rig.job_scores.check()
        await rig.watchdog.revive()
    assert "revived" not in rig.counts
    await rig.commits.cancel(JOB)
    (end,) = await rig.led_to_cause(f"cancel:{JOB}")
    assert isinstance(end, JobFinished)  # no wave is open
    await rig.job_scores.check()
    assert (await rig.state_of())[0] == "cancelled"
    assert {run.state for run in rig.runs.stored.values()} == {RunState.CANCELLED}


STOPPING = EarlyStopping(patience=1, min_delta=0.0, warmup=0)


async def test_a_score_stops_a_job_in_the_middle_of_a_wave(rig: Measured) -> None:
    wave = await take_steps(rig, await begun(rig, every=1, early_stopping=STOPPING), [1, 2])
    assert isinstance(wave, WaveRequested)
    rig.runs.end(1, 0.5)
    await rig.job_scores.check()
    assert (await rig.state_of())[0] == "running"
    rig.runs.end(2, 0.25)
    await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.state, job.stopped_early, job.result) == (
        JobState.SUCCEEDED,
        True,
        published(1).revision,
    )
    cancelled, end = await rig.led_to_cause(f"scored:{list(rig.runs.stored)[1]}")
    assert isinstance(cancelled, WaveCancelled)
    assert cancelled.wave_id == wave.wave_id
    assert isinstance(end, JobFinished)
    assert end.reason == (
        "stopped early after step 2 of 4: valid_reward_mean was not better in the last 1 evaluations"
    )


async def test_the_order_in_which_runs_end_changes_no_early_stop(rig: Measured) -> None:
    await take_steps(rig, await begun(rig, every=1, early_stopping=STOPPING), [1, 2, 3])
    for number, value in ((3, 0.25), (1, 0.5)):  # what step 2 scored is still to come
        rig.runs.end(number, value)
        await rig.job_scores.check()
        assert (await rig.state_of())[0] == "running"
    rig.runs.end(2, 0.75)
    await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.stopped_early, job.result) == (True, published(2).revision)


async def test_a_score_ends_a_paused_job_that_gets_no_better(rig: Measured) -> None:
    wave = await take_steps(rig, await begun(rig, every=1, early_stopping=STOPPING), [1])
    await rig.commits.pause(await rig.jobs.job(JOB))
    assert await take_steps(rig, wave, [2]) is None
    for number, value in ((1, 0.5), (2, 0.5)):
        rig.runs.end(number, value)
    await rig.job_scores.check()
    job = await rig.jobs.job(JOB)
    assert (job.state, job.stopped_early) == (JobState.SUCCEEDED, True)
    assert on_score(job, await rig.jobs.waves_of(JOB), now=0.0).job == job
