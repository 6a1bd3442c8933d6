"""What rollout's tables say is to be erased, and the eraser over them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import pytest
from contract.schemas import empty_schema

from mint_common.blobs.localfs import LocalBlobs
from mint_common.datasets import Format
from mint_common.errors import Unavailable
from mint_common.events import JobFile, PolicyRemoved
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.records import wave_blobs
from services.rollout.adapters.erasures_postgres import ERASED_REASON, PostgresErasures, note_deleted_file
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.erasure import AWAY_SECONDS, RETRY_SECONDS, SETTLE_SECONDS, EndedJob
from services.rollout.core.evaluation import EvaluationData, EvaluationRun, failed, scored
from services.rollout.core.fault import JobFault
from services.rollout.core.job import Job, JobState, open_job, wave_id_of
from services.rollout.core.wave import Wave, WaveState
from services.rollout.handlers.erasure import FILES_KEPT_SECONDS, Eraser
from tests.testing.clock import ManualClock
from tests.testing.factories import TENANT, make_claim
from tests.unit.rollout.file_jobs import on_file
from tests.unit.rollout.test_evaluation import RUN, rows
from tests.unit.rollout.world import published, submitted

pytestmark = pytest.mark.integration

OTHER = TenantId("ten_other")
DAY = 86_400.0
FILE = JobFile(
    file_id="file-1", filename="a.jsonl", content=make_claim("files/1"), format=Format.COMPLETION, rows=4
)


@dataclass
class ScriptedTrainer:
    """What a trainer says that it needs."""

    needed: set[str] = field(default_factory=set)
    is_away: bool = False
    asked: list[EndedJob] = field(default_factory=list)

    async def release(self, job: EndedJob) -> frozenset[str]:
        """Return what is needed."""
        self.asked.append(job)
        if self.is_away:
            raise Unavailable(what="a trainer of tiny", problem="away")
        return frozenset(self.needed)


class World:
    """Tables, blobs and the eraser."""

    def __init__(self, pool: asyncpg.Pool, folder: Path) -> None:
        self.pool = pool
        self.blobs = LocalBlobs(folder)
        self.clock = ManualClock(1_700_000_000.0)
        self.trainer = ScriptedTrainer()
        self.runs = PostgresEvaluationRuns(pool)
        self.erasures = PostgresErasures(pool)
        self.eraser = self.eraser_over(self.blobs)

    def eraser_over(self, blobs: LocalBlobs) -> Eraser:
        """Return an eraser of these tables, over a store."""
        return Eraser(
            erasures=self.erasures,
            records=self.trainer,
            blobs=blobs,
            clock=self.clock,
            keep_seconds=30 * DAY,
        )

    async def job(self, name: str, *, file: JobFile | None = FILE, state: str = "succeeded") -> Job:
        """Add a job with two waves, the last of which was not published, and their blobs."""
        job_id, now = JobId(name), self.clock.now()
        event = submitted(job_id=job_id) if file is None else replace(on_file(file), job_id=job_id)
        job = open_job(replace(event, policy_id=PolicyId(f"of_{name}")), now=now)
        job = replace(job, state=JobState(state))
        if state != "running":
            job = replace(job, finished_at=now, reason="Line 1: secret" if state == "failed" else "")
        prefix = wave_blobs(job.policy_id, job_id)
        waves = [
            Wave(
                wave_id=wave_id_of(job_id, step),
                job_id=job_id,
                step=step,
                state=WaveState.PUBLISHED if step == 1 else WaveState.CANCELLED,
                sampled=None,
                prompts=await self.blobs.put(f"{prefix}{step}.prompts", b"secret"),
                requested_at=now,
                record=await self.blobs.put(f"{prefix}{step}-aa.rec", b"secret"),
                revision=published(1).revision if step == 1 else None,
            )
            for step in (1, 2)
        ]
        async with self.pool.acquire() as connection:
            await PostgresJobs(self.pool).save(connection, job, waves)
        return job

    async def delete_file(self, tenant_id: TenantId, file_id: str) -> None:
        """Note that a file is gone."""
        async with self.pool.acquire() as connection, connection.transaction():
            await note_deleted_file(connection, tenant_id, file_id, now=self.clock.now())

    async def keys(self, job: Job) -> list[str]:
        """Return the blobs of a job."""
        prefix = wave_blobs(job.policy_id, job.job_id)
        return [key.removeprefix(prefix) async for key in self.blobs.list(prefix)]

    async def run(self, name: str, file: JobFile, *, tenant: TenantId = TENANT) -> EvaluationRun:
        """Add a run over a file."""
        data = EvaluationData(file=file, holdout=0.0, grader=None, on_long="drop")
        (run,) = await self.runs.add(
            [replace(RUN, run_id=name, tenant_id=tenant, task="", data=data)], max_open=None
        )
        return run


ALL = ["1-aa.rec", "1.prompts", "2-aa.rec", "2.prompts"]


@pytest.fixture
async def world(shared_database: str, tmp_path: Path) -> AsyncIterator[World]:
    async with empty_schema(shared_database, "rollout") as pool:
        yield World(pool, tmp_path / "blobs")


async def test_blobs_of_ended_jobs_go_after_their_time_and_those_of_others_never(world: World) -> None:
    old, running = await world.job("old", file=None), await world.job("running", state="running")
    await world.clock.advance(29 * DAY)
    new = await world.job("new")
    await world.eraser.erase()
    assert [await world.keys(job) for job in (old, running, new)] == [ALL] * 3
    await world.clock.advance(2 * DAY)
    await world.eraser.erase()
    assert [await world.keys(job) for job in (old, running, new)] == [[], ALL, ALL]
    (asked,) = world.trainer.asked
    assert (asked.job_id, asked.untold) == (old.job_id, (wave_id_of(old.job_id, 2),))
    # It is not looked at any more.
    await world.eraser.erase()
    assert len(world.trainer.asked) == 1
    assert await world.pool.fetchval("SELECT erased_at FROM jobs WHERE job_id = 'old'") == world.clock.now()


async def test_blobs_of_a_deleted_file_go_at_once_and_once_more(world: World) -> None:
    other = replace(FILE, file_id="file-2")
    mine, others = await world.job("mine"), await world.job("others", file=other)
    task = await world.job("task", file=None)
    await world.delete_file(OTHER, FILE.file_id)
    await world.eraser.erase()
    assert await world.keys(mine) == ALL
    await world.pool.execute("DELETE FROM deleted_files")
    for _ in range(2):
        await world.delete_file(TENANT, FILE.file_id)
    await world.eraser.erase()
    assert [await world.keys(job) for job in (mine, others, task)] == [[], ALL, ALL]
    # A process that did not know of the end stores a wave that it had in hand.
    await world.blobs.put(f"{wave_blobs(mine.policy_id, mine.job_id)}2-bb.rec", b"secret")
    await world.eraser.erase()
    assert await world.keys(mine) == ["2-bb.rec"]
    await world.clock.advance(SETTLE_SECONDS)
    await world.eraser.erase()
    assert await world.keys(mine) == []


async def test_a_validation_file_counts_as_much(world: World) -> None:
    job = await world.job("validated")
    plan = {"file": {"file_id": "file-9"}}
    set_plan = "UPDATE jobs SET spec = jsonb_set(spec, '{data,evaluation}', $1)"
    await world.pool.execute(set_plan, plan)
    await world.delete_file(TENANT, "file-9")
    await world.eraser.erase()
    assert await world.keys(job) == []


async def test_a_record_that_training_may_read_stays_until_it_does_not(world: World) -> None:
    job = await world.job("needed", state="cancelled")
    world.trainer.needed = {f"{wave_blobs(job.policy_id, job.job_id)}2-aa.rec"}
    await world.delete_file(TENANT, FILE.file_id)
    await world.eraser.erase()
    assert await world.keys(job) == ["2-aa.rec"]
    world.trainer.needed = set()
    await world.clock.advance(RETRY_SECONDS)
    await world.eraser.erase()
    assert await world.keys(job) == []


async def test_a_trainer_that_is_away_is_asked_once_a_time_and_holds_no_prompts(world: World) -> None:
    jobs = [await world.job(f"job_{n}") for n in range(3)]
    world.trainer.is_away = True
    await world.delete_file(TENANT, FILE.file_id)
    await world.eraser.erase()
    assert [await world.keys(job) for job in jobs] == [["1-aa.rec", "2-aa.rec"]] * 3
    assert len(world.trainer.asked) == 1
    world.trainer.is_away = False
    await world.clock.advance(AWAY_SECONDS)
    await world.eraser.erase()
    assert [await world.keys(job) for job in jobs] == [[]] * 3


class OneIsRefused(LocalBlobs):
    """A store that lists nothing of one job."""

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Return the keys with a prefix."""
        if "job_1" in prefix:
            raise Unavailable(what="the blob store", problem="access denied")
        async for key in super().list(prefix):
            yield key


async def test_a_job_that_cannot_be_erased_holds_up_no_other(world: World, tmp_path: Path) -> None:
    jobs = [await world.job(f"job_{n}") for n in range(3)]
    await world.delete_file(TENANT, FILE.file_id)
    await world.eraser_over(OneIsRefused(tmp_path / "blobs")).erase()
    assert [await world.keys(job) for job in jobs] == [[], ALL, []]
    await world.clock.advance(AWAY_SECONDS)
    await world.eraser.erase()
    assert await world.keys(jobs[1]) == []


async def test_a_killed_eraser_s_work_is_taken_up(world: World) -> None:
    job = await world.job("killed")
    await world.delete_file(TENANT, FILE.file_id)
    now = world.clock.now()
    claims = [
        world.erasures.claim(before=0.0, now=now, next_at=now + RETRY_SECONDS, limit=9) for _ in range(4)
    ]
    claimed = [each.job_id for found in await asyncio.gather(*claims) for each in found]
    assert claimed == ["killed"]  # by one of them, which is killed
    await world.eraser.erase()
    assert await world.keys(job) == ALL
    await world.clock.advance(RETRY_SECONDS)
    await world.eraser.erase()
    assert await world.keys(job) == []


async def test_what_a_failed_job_quotes_of_a_row_goes_with_its_file(world: World) -> None:
    job = await world.job("failed", state="failed")
    fault = JobFault(code="too_long", message="Line 1: secret", param="training_file", line=1)
    async with world.pool.acquire() as connection:
        await PostgresJobs(world.pool).save(connection, replace(job, fault=fault), [])
    await world.delete_file(TENANT, FILE.file_id)
    found = await PostgresJobs(world.pool).job(job.job_id)
    assert found.fault == replace(fault, message=ERASED_REASON)
    assert (found.reason, found.state) == (ERASED_REASON, JobState.FAILED)


async def test_answers_of_runs_over_a_deleted_file_go_also_of_those_that_end_later(world: World) -> None:
    names = ("ended", "failed", "quoting", "open", "unread")
    ended, bad, quoting, still, unread = [await world.run(f"evr_{name}", FILE) for name in names]
    other = await world.run("evr_other", replace(FILE, file_id="file-2"))
    foreign = await world.run("evr_foreign", FILE, tenant=OTHER)
    answers = rows([1.0, 0.0])
    for run in (ended, other, foreign):
        await world.runs.finish(scored(run, answers, now=1.0), answers.rows)
    await world.runs.finish(failed(bad, "the grader failed: secret", now=1.0), answers.rows)
    why = "a.jsonl (file-1) was deleted before the run had read it"
    await world.runs.finish(failed(unread, why, now=1.0), ())
    await world.runs.finish(failed(quoting, f"the grader failed: secret {why}", now=1.0), ())
    await world.delete_file(TENANT, FILE.file_id)
    await world.eraser.erase()
    kept = [await world.runs.rows(run.run_id, after=0, limit=9) for run in (ended, bad, other, foreign)]
    assert kept == [[], [], answers.rows, answers.rows]
    assert (await world.runs.run(TENANT, "evr_failed")).reason == ERASED_REASON
    assert (await world.runs.run(TENANT, "evr_quoting")).reason == ERASED_REASON
    assert (await world.runs.run(TENANT, "evr_unread")).reason == why
    assert (await world.runs.run(TENANT, "evr_ended")).value == 0.5
    await world.clock.advance(FILES_KEPT_SECONDS - 1)
    await world.runs.finish(scored(still, answers, now=2.0), answers.rows)
    await world.eraser.erase()
    assert await world.runs.rows("evr_open", after=0, limit=9) == []
    await world.clock.advance(2.0)
    await world.eraser.erase()
    assert await world.pool.fetchval("SELECT count(*) FROM deleted_files") == 0


async def test_what_a_removed_policy_left_goes_at_once_and_that_of_others_stays(world: World) -> None:
    mine, others = await world.job("mine", file=None), await world.job("others", file=None)
    run = await world.run("evr_mine", FILE)
    other_run = replace(RUN, run_id="evr_others", policy_id=PolicyId("pol_other"))
    await world.runs.add([other_run], max_open=None)
    for name in (run.run_id, other_run.run_id):
        await world.pool.execute("INSERT INTO evaluation_rows VALUES ($1, 1, 0, '', 1, '', '')", name)
    removed = PolicyRemoved(
        tenant_id=OTHER, base=mine.base, policy_id=mine.policy_id, name="p", actor="someone else"
    )
    await world.eraser.on_policy_removed(removed)
    await world.eraser.on_policy_removed(replace(removed, tenant_id=TENANT, policy_id=run.policy_id))
    await world.eraser.erase()
    assert [await world.keys(job) for job in (mine, others)] == [ALL, ALL]
    for _ in range(2):
        await world.eraser.on_policy_removed(replace(removed, tenant_id=TENANT))
    await world.eraser.erase()
    assert [await world.keys(job) for job in (mine, others)] == [[], ALL]
    left = await world.pool.fetch("SELECT run_id FROM evaluation_rows")
    assert [row["run_id"] for row in left] == [other_run.run_id]
