"""The job store, under its ledger."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from contract.schemas import empty_schema

from mint_common.datasets import Format
from mint_common.errors import NotFound
from mint_common.events import JobFile, Teacher, WaveRequested
from mint_common.ids import JobId, PolicyId, TenantId, WaveId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import open_pool
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.evaluation import RunState
from services.rollout.core.fault import JobFault
from services.rollout.core.job import Job, JobState, open_job, wave_id_of
from services.rollout.core.job_end import finish
from services.rollout.core.job_scores import scoring_run
from services.rollout.core.job_steps import begin
from services.rollout.core.progress import Progress
from services.rollout.core.quotas import JobUsage
from services.rollout.core.wave import Wave, WaveCounts, WaveState, fold
from services.rollout.handlers.commits import Commits
from tests.testing.factories import EXACT, JOB, POLICY, TENANT, make_claim
from tests.unit.rollout.file_jobs import EVALUATION, on_file
from tests.unit.rollout.memory_jobs import progress_of
from tests.unit.rollout.test_environment_waves import COUNTER
from tests.unit.rollout.test_job import completed
from tests.unit.rollout.world import history, published, submitted

pytestmark = pytest.mark.integration


@dataclass
class Store:
    """A job store and the ledger whose transactions it takes part in."""

    jobs: PostgresJobs
    ledger: PostgresLedger

    async def save(self, cause: str, job: Job, *waves: Wave) -> None:
        async with self.ledger.transaction(cause) as transaction:
            await self.jobs.save(transaction.connection, job, waves)


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with empty_schema(shared_database, "rollout") as pool:
        yield Store(PostgresJobs(pool), PostgresLedger(pool, SystemClock()))


def make_job(job_id: JobId = JOB, *, now: float = 100.0) -> Job:
    waiting = open_job(submitted(job_id=job_id), now=now)
    return begin(waiting, {1: make_claim("p")}, revision=None, cause="start", now=now).job


def waiting_job(job_id: str, *, policy: str = POLICY, now: float = 100.0) -> Job:
    return open_job(submitted(job_id=JobId(job_id), policy_id=PolicyId(policy)), now=now)


def make_wave(step: int = 1, *, job_id: JobId = JOB) -> Wave:
    waiting = open_job(submitted(job_id=job_id), now=1.0)
    (event,) = begin(waiting, {1: make_claim("p")}, revision=None, cause="start", now=1.0).events
    assert isinstance(event, WaveRequested)
    event = replace(event, wave_id=wave_id_of(job_id, step), step=step)
    wave = fold(None, event, now=1.0)
    assert wave is not None
    return wave


async def test_what_is_saved_is_read_back_equal(store: Store) -> None:
    waves = [make_wave(1), make_wave(2), make_wave(3)]
    for event in (completed(1), published(1), completed(2)):
        waves = [fold(wave, event, now=2.0) if wave.wave_id == event.wave_id else wave for wave in waves]
    finished = replace(
        make_job(),
        state=JobState.FAILED,
        reason="it broke",
        revision=published(2).revision,
        steps_done=2,
        finished_at=7.0,
        result=published(1).revision,
        stopped_early=True,
        fault=JobFault(code="too_long", message="Line 5 of a.jsonl: ...", param="training_file", line=5),
        is_pausing=True,
        controls=3,
    )
    counts = WaveCounts(dropped_rows=1, trained_tokens=9, grader_errors={"other_error": 2}, validation_rows=4)
    waves[0] = replace(waves[0], counts=counts, scored_at=3.0)
    await store.save("c1", make_job())
    await store.save("c2", finished, *reversed(waves))
    assert await store.jobs.job(JOB) == finished
    assert await store.jobs.waves_of(JOB) == waves
    async with store.ledger.transaction("c3") as transaction:
        assert await store.jobs.lock(transaction.connection, JOB) == finished
        assert await store.jobs.wave(waves[0].wave_id, within=transaction.connection) == waves[0]
        assert await store.jobs.wave(wave_id_of(JOB, 9), within=transaction.connection) is None


async def test_teachers_are_those_of_open_jobs(store: Store) -> None:
    digests = []
    for number in (1, 2, 3):
        revision = published(number).revision
        digests.append(revision.digest)
        teacher = Teacher(name=f"t@{number}", revision=revision)
        spec = replace(make_job().spec, teacher=teacher)
        ended = {"state": JobState.SUCCEEDED, "finished_at": 5.0} if number == 3 else {}
        job = replace(make_job(), job_id=JobId(f"job_{number}"), spec=spec, **ended)
        await store.save(f"c{number}", job)
    base = replace(make_job(), spec=replace(make_job().spec, teacher=Teacher(name="tiny", revision=None)))
    await store.save("c9", base)
    first, second = sorted(digests[:2])
    assert await store.jobs.teachers(after="", limit=9) == [first, second]
    assert await store.jobs.teachers(after=first, limit=9) == [second]
    assert await store.jobs.teachers(after="", limit=1) == [first]


async def test_waves_without_a_score_are_those_that_have_a_revision(store: Store) -> None:
    waves = []
    for step in range(1, 5):
        wave = fold(make_wave(step), completed(step), now=2.0)
        waves.append(wave if step == 4 else fold(wave, published(step), now=2.0))
    waves[0] = replace(waves[0], scored_at=3.0)
    await store.save("c1", make_job(), *waves)
    assert await store.jobs.waves_in(JOB, range(2, 4)) == waves[1:3]
    assert await store.jobs.waves_in(JOB, range(3, 3)) == []
    assert await store.jobs.unscored_waves(JOB, [1, 2, 4]) == [waves[1]]
    assert await store.jobs.unscored_waves(JOB, [4, 3, 2]) == waves[1:3]
    assert await store.jobs.unscored_waves(JobId("job_none"), [1, 2]) == []


async def test_progress_is_summed_as_it_is_read_off_waves(store: Store) -> None:
    file = JobFile(file_id="f", filename="a.jsonl", content=make_claim("f"), format=Format.CHAT, rows=9)
    events = {
        "job_task": submitted(),
        "job_measured": on_file(file, evaluation=EVALUATION),
        "job_sft": on_file(file),
        "job_new": submitted(),
    }
    measured = [{"valid_loss": 2.0}, {}, {"valid_loss": 0.5, "loss": 0.1}, {"valid_loss": 0.5}]
    history_of = history([0.0, 0.75, 0.25, 0.5], idle=[2])
    jobs, expected = [], {}
    for name, event in events.items():
        job = open_job(replace(event, job_id=JobId(name)), now=1.0)
        waves = [
            replace(
                wave,
                job_id=job.job_id,
                wave_id=WaveId(f"{name}_{wave.step}"),
                metrics=metrics,
                counts=WaveCounts(trained_tokens=wave.step),
            )
            for wave, metrics in zip(history_of, measured, strict=True)
            if name != "job_new"
        ]
        if waves:
            open_wave = {"revision": None, "metrics": {}, "reward_mean": None}
            waves.append(replace(waves[-1], step=5, wave_id=WaveId(f"{name}_5"), **open_wave))
        await store.save(name, job, *waves)
        jobs.append(job)
        expected[job.job_id] = progress_of(job, waves)
    found = await store.jobs.progress_of(jobs)
    assert found == expected
    task, measured_best = found[JobId("job_task")], found[JobId("job_measured")].best
    assert (task.step, task.reward, task.started_at, task.trained_tokens) == (4, 0.5, 1.0, 1 + 2 + 3 + 4)
    # Two revisions had 0.5, the first of them as the mean of two steps: the newest is best.
    assert (task.best.number, task.best.step, task.best.reward) == (2, 4, 0.5)
    assert (measured_best.number, measured_best.step, measured_best.value) == (2, 3, 0.5)
    assert found[JobId("job_sft")].best is None
    assert found[JobId("job_new")] == Progress()
    assert await store.jobs.progress_of([]) == {}


async def test_listed_jobs_have_no_graders(store: Store) -> None:
    file = JobFile(file_id="f", filename="a.jsonl", content=make_claim("f"), format=Format.REWARD, rows=9)
    event = on_file(file)
    assert event.spec.data is not None
    data = replace(event.spec.data, grader=EXACT)
    job = open_job(replace(event, spec=replace(event.spec, algorithm="grpo", data=data)), now=1.0)
    await store.save("c", job)
    assert await store.jobs.job(job.job_id) == job
    (listed,) = await store.jobs.jobs_of(TENANT, limit=9)
    assert listed == replace(job, spec=replace(job.spec, data=replace(data, grader=None)))


async def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="job_none"):
        await store.jobs.job(JobId("job_none"))
    with pytest.raises(NotFound, match="job_none"):
        async with store.ledger.transaction("c") as transaction:
            await store.jobs.lock(transaction.connection, JobId("job_none"))
    assert not await store.ledger.is_known("c")
    assert await store.jobs.waves_of(JobId("job_none")) == []
    assert not await store.jobs.touch(JobId("job_none"), now=1.0)


async def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    async def fail() -> None:
        async with store.ledger.transaction("c") as transaction:
            await store.jobs.save(transaction.connection, make_job(), [make_wave()])
            raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        await fail()
    assert await store.jobs.jobs_of(TENANT, limit=9) == []
    assert await store.jobs.waves_of(JOB) == []


async def test_a_tenant_sees_its_own_jobs_newest_first(store: Store) -> None:
    for number in (1, 3, 2):
        await store.save(f"c{number}", make_job(JobId(f"job_{number}"), now=float(number)))
    other = replace(make_job(JobId("job_other")), tenant_id=TenantId("ten_other"))
    await store.save("other", other)
    assert [job.job_id for job in await store.jobs.jobs_of(TENANT, limit=9)] == ["job_3", "job_2", "job_1"]
    assert [job.job_id for job in await store.jobs.jobs_of(TENANT, limit=2)] == ["job_3", "job_2"]
    assert await store.jobs.jobs_of(TenantId("ten_other"), limit=9) == [other]
    assert await store.jobs.jobs_of(TenantId("ten_none"), limit=9) == []


async def test_jobs_are_paged_by_state_and_policy(store: Store) -> None:
    jobs = [make_job(JobId(f"job_{number}"), now=float(number // 2)) for number in range(6)]
    for job in jobs:
        await store.save(f"c{job.job_id}", replace(job, policy="named" if job.job_id != "job_3" else "other"))
    seen, after = [], None
    while page := await store.jobs.jobs_of(TENANT, limit=2, policy="named", after=after):
        seen += [job.job_id for job in page]
        after = page[-1]
    assert seen == ["job_4", "job_5", "job_2", "job_0", "job_1"]
    assert len(await store.jobs.jobs_of(TENANT, limit=9, policy=jobs[0].policy_id)) == 6
    assert len(await store.jobs.jobs_of(TENANT, limit=9, state=jobs[0].state.value)) == 6
    assert await store.jobs.jobs_of(TENANT, limit=9, state="failed") == []


async def test_a_sign_of_life_never_goes_back_and_only_running_jobs_give_one(store: Store) -> None:
    await store.save("c1", make_job(now=100.0))
    assert await store.jobs.touch(JOB, now=150.0)
    assert await store.jobs.touch(JOB, now=120.0)
    assert (await store.jobs.job(JOB)).progress_at == 150.0
    ended = replace(await store.jobs.job(JOB), state=JobState.SUCCEEDED, finished_at=160.0)
    await store.save("c2", ended)
    assert not await store.jobs.touch(JOB, now=200.0)
    assert await store.jobs.job(JOB) == ended


async def test_a_reason_with_a_character_that_postgres_does_not_take_is_stored(store: Store) -> None:
    ended = finish(waiting_job("job_1"), "failed", "Task 'x' failed: a\x00b", now=2.0).job
    await store.save("c1", ended)
    assert (await store.jobs.job(JobId("job_1"))).reason == "Task 'x' failed: a\ufffdb"


async def test_what_a_tenant_s_jobs_take_is_that_of_its_own_open_jobs_and_of_late_steps(store: Store) -> None:
    assert await store.jobs.usage(TENANT, since=0.0) == JobUsage(open_jobs=0, trainer_seconds=0.0)
    waves = [make_wave(step) for step in (1, 2, 3)]
    waves[0] = replace(waves[0], published_at=50.0, metrics={"seconds": 100.0})
    waves[1] = replace(waves[1], published_at=150.0, metrics={"seconds": 2.5})
    await store.save("c1", make_job(now=200.0), *waves)
    await store.save("c2", waiting_job("job_2"))
    await store.save("c3", replace(waiting_job("job_3"), state=JobState.PAUSED))
    await store.save("c4", finish(waiting_job("job_4"), "failed", "", now=2.0).job)
    await store.save("c5", replace(waiting_job("job_5"), tenant_id=TenantId("ten_other")))
    assert await store.jobs.usage(TENANT, since=100.0) == JobUsage(open_jobs=3, trainer_seconds=2.5)


async def test_each_stalled_job_goes_to_one_claimer_until_it_is_silent_again(store: Store) -> None:
    await store.save("quiet", make_job(JobId("job_quiet"), now=100.0))
    await store.save("lively", make_job(JobId("job_lively"), now=190.0))
    over = replace(make_job(JobId("job_over"), now=100.0), state=JobState.CANCELLED)
    await store.save("over", over)
    claims = await asyncio.gather(
        *(store.jobs.claim_stalled(before=180.0, waiting_since=None, now=200.0) for _ in range(4))
    )
    (claimed,) = [job for claim in claims for job in claim]
    assert (claimed.job_id, claimed.progress_at) == ("job_quiet", 200.0)
    assert [
        job.job_id for job in await store.jobs.claim_stalled(before=195.0, waiting_since=None, now=215.0)
    ] == ["job_lively"]
    again = await store.jobs.claim_stalled(before=201.0, waiting_since=None, now=221.0)
    assert [job.job_id for job in again] == ["job_quiet"]


async def test_a_job_whose_request_waits_on_the_bus_is_not_stalled(store: Store) -> None:
    for name, state in (
        ("waits", WaveState.REQUESTED),
        ("lost", WaveState.REQUESTED),
        ("sampled", WaveState.COMPLETED),
    ):
        job = make_job(JobId(f"job_{name}"), now=80.0 if name == "lost" else 100.0)
        await store.save(name, job, replace(make_wave(job_id=job.job_id), state=state))
    claimed = await store.jobs.claim_stalled(before=180.0, waiting_since=90.0, now=200.0)
    assert {job.job_id for job in claimed} == {"job_lost", "job_sampled"}
    claimed = await store.jobs.claim_stalled(before=180.0, waiting_since=None, now=200.0)
    assert [job.job_id for job in claimed] == ["job_waits"]


async def test_the_first_waiting_job_is_next_while_none_of_its_policy_runs(store: Store) -> None:
    await store.save("c2", waiting_job("job_2", now=2.0))
    await store.save("c1", waiting_job("job_1", now=1.0))
    await store.save("other", waiting_job("job_other", policy="pol_other", now=3.0))
    assert await store.jobs.next_of(POLICY) == waiting_job("job_1", now=1.0)
    assert set(await store.jobs.overdue(before=2.5)) == {POLICY}
    async with store.ledger.transaction("start") as transaction:
        assert await store.jobs.lock_next(transaction.connection, POLICY) == waiting_job("job_1", now=1.0)
        await store.jobs.save(transaction.connection, make_job(JobId("job_1"), now=1.0), [])
    assert await store.jobs.next_of(POLICY) is None
    assert await store.jobs.overdue(before=9.0) == ["pol_other"]
    ended = replace(make_job(JobId("job_1")), state=JobState.SUCCEEDED)
    await store.save("c3", ended)
    assert await store.jobs.next_of(POLICY) == waiting_job("job_2", now=2.0)
    assert await store.jobs.next_of(PolicyId("pol_none")) is None


async def test_a_job_that_is_paused_midway_holds_its_policy(store: Store) -> None:
    await store.save("c1", waiting_job("job_1", now=1.0))
    for cause, steps_done, is_held in (("p0", 0, False), ("p1", 1, True)):
        paused = replace(make_job(now=0.0), state=JobState.PAUSED, steps_done=steps_done)
        await store.save(cause, paused)
        assert (await store.jobs.next_of(POLICY) is None) == is_held
        assert (await store.jobs.overdue(before=9.0) == []) == is_held
        assert not await store.jobs.touch(JOB, now=9.0)
        assert await store.jobs.claim_stalled(before=9.0, waiting_since=None, now=9.0) == []


def measured_job() -> Job:
    """Return a running job whose revisions evaluation runs measure."""
    file = JobFile(
        file_id="f", filename="a.jsonl", content=make_claim("files/a"), format=Format.REWARD, rows=20
    )
    plan = replace(EVALUATION, metric="valid_reward_mean")
    waiting = replace(open_job(on_file(file, evaluation=plan), now=1.0), job_id=JobId("job_measured"))
    return begin(waiting, {1: make_claim("p")}, revision=None, cause="s", now=1.0).job


async def test_jobs_that_runs_measure_are_told_until_they_end(store: Store) -> None:
    measured = measured_job()
    for job in (measured, make_job()):
        await store.save(job.job_id, job)
    (found,) = await store.jobs.scored_by_runs()
    assert found == measured
    for cause, state, count in (("paused", JobState.PAUSED, 1), ("over", JobState.FAILED, 0)):
        await store.save(cause, replace(found, state=state))
        assert len(await store.jobs.scored_by_runs()) == count
    plan = replace(EVALUATION, holdout=0.0, split="eval", metric="valid_reward_mean")
    spec = replace(make_job().spec, task="", environment=replace(COUNTER, evaluation=plan))
    there = replace(make_job(), job_id=JobId("job_there"), policy_id=PolicyId("pol_there"), spec=spec)
    await store.save("there", there)
    assert await store.jobs.scored_by_runs() == [there]


async def test_a_change_of_a_job_takes_no_second_connection(shared_database: str, store: Store) -> None:
    """As many changes as a pool has connections would wait for each other without an end."""
    job, measured = replace(make_job(), steps_done=2), replace(measured_job(), steps_done=4)
    await store.save("job", job, make_wave(3))
    wave = replace(make_wave(2, job_id=measured.job_id), revision=published(2).revision)
    await store.save("measured", measured, wave)
    run = replace(scoring_run(measured, wave, now=1.0), state=RunState.SUCCEEDED, value=0.5, scored=3)
    pool = await open_pool(shared_database, schema="rollout", max_size=1)
    try:
        commits = Commits(
            jobs=PostgresJobs(pool), ledger=PostgresLedger(pool, SystemClock()), clock=SystemClock()
        )
        async with asyncio.timeout(60):
            await commits.commit(published(3), job_id=JOB, cause="published", prompts=None)
            await commits.score(measured.job_id, wave.wave_id, run)
    finally:
        pool.terminate()
    ended = [await store.jobs.job(JOB), await store.jobs.job(measured.job_id)]
    assert [each.state for each in ended] == [JobState.SUCCEEDED] * 2


async def test_racing_starters_start_one_job(store: Store) -> None:
    for number in range(3):
        await store.save(f"c{number}", waiting_job(f"job_{number}", now=float(number)))

    async def start(number: int) -> bool:
        job_id = JobId(f"job_{number}")
        async with store.ledger.transaction(f"start:{number}") as transaction:
            first = await store.jobs.lock_next(transaction.connection, POLICY)
            if first is None or first.job_id != job_id:
                return False
            await store.jobs.save(transaction.connection, make_job(job_id, now=float(number)), [])
            return True

    assert sum(await asyncio.gather(*(start(number) for number in (2, 0, 1)))) == 1
    assert await store.jobs.next_of(POLICY) is None
