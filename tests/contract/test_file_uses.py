"""Files that jobs read: kept while a job reads them, and a removed one makes no job."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from contract.files_rig import MINE, OTHERS, ROWS, draft, keep, keeper
from contract.schemas import empty_schema

from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import RevisionRef
from mint_common.errors import NotFound
from mint_common.events import JobData, JobFile, JobSubmitted
from mint_common.file_requests import FileUse
from mint_common.ids import Digest, JobId, WaveId, new_id
from mint_common.job_errors import JobRefused
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.core.files.records import FileRecord
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.job import JobState
from services.rollout.core.wave import Wave, WaveState
from services.rollout.handlers.files import FileKeeper
from services.rollout.http.files import uses_of
from tests.testing.clock import ManualClock
from tests.testing.factories import BASE, LORA, POLICY, SPEC, make_claim

CLAIM = make_claim("m")

pytestmark = pytest.mark.integration


class Rig:
    """Files and jobs over one schema."""

    def __init__(self, pool: asyncpg.Pool, files: FileKeeper, clock: ManualClock) -> None:
        self.pool = pool
        self.files = files
        self.clock = clock
        self.jobs = PostgresTenantJobs(pool, PostgresLedger(pool, clock), clock)

    async def submit(
        self, file: FileRecord, *, metadata: dict[str, str] | None = None, policy: str = "copy"
    ) -> JobId:
        """Make a job that trains on a file."""
        job_id = JobId(new_id("job"))
        read = JobFile(
            file_id=file.file_id, filename="a", content=file.claim, format=file.format, rows=file.rows
        )
        data = JobData(training=read, epochs=1, on_long="refuse", grader=None, evaluation=None)
        event = JobSubmitted(
            tenant_id=file.tenant_id,
            base=BASE,
            job_id=job_id,
            policy_id=POLICY,
            lora=LORA,
            spec=replace(SPEC, algorithm="sft", task="", data=data),
        )
        told = FineTuning(
            model=BASE, suffix=None, metadata=metadata, method="supervised", hyperparameters={}, lora=LORA
        )
        await self.jobs.submit(event, cause=job_id, policy=policy, warnings=(), fine_tuning=told)
        return job_id

    async def set_state(self, job_id: JobId, state: str, *, steps: int = 0, of: int | None = None) -> None:
        """Let a job be in a state after some steps, which led to ``of`` revisions."""
        found = await self.jobs.get(MINE, job_id)
        assert found is not None
        job = replace(found, state=JobState(state), steps_done=steps)
        waves = [
            Wave(
                wave_id=WaveId(f"{job_id}-{n}"),
                job_id=job_id,
                step=n,
                state=WaveState.PUBLISHED,
                sampled=None,
                prompts=CLAIM,
                requested_at=1.0,
                revision=RevisionRef(digest=Digest("d"), number=min(n, of or n), manifest=CLAIM),
            )
            for n in range(1, steps + 1)
        ]
        async with self.pool.acquire() as connection, connection.transaction():
            await PostgresJobs(self.pool).save(connection, job, waves)

    async def uses(self, file_id: str) -> FileUse:
        """Return what used a file."""
        return await uses_of(self.jobs, MINE, file_id)


@pytest.fixture
async def rig(shared_database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    clock, blobs = ManualClock(), LocalBlobs(tmp_path / "blobs")
    async with (
        empty_schema(shared_database, "rollout") as pool,
        keeper(pool, blobs, tmp_path, clock) as uploads,
    ):
        yield Rig(pool, uploads.keeper, clock)


async def test_a_file_goes_when_its_jobs_have_ended(rig) -> None:
    file = await keep(rig.files, ROWS)
    job = await rig.submit(file)
    for state in ("submitted", "running", "paused"):
        await rig.set_state(job, state)
        with pytest.raises(JobRefused) as refused:
            await rig.files.remove(MINE, file.file_id)
        assert refused.value.code == "file_in_use"
    await rig.set_state(job, "succeeded")
    used = await rig.uses(file.file_id)
    assert [(each.status, each.use) for each in used.jobs] == [("succeeded", "training")]
    await rig.files.remove(MINE, file.file_id)
    with pytest.raises(NotFound):
        await rig.files.get(MINE, file.file_id)
    with pytest.raises(NotFound):
        await rig.files.remove(MINE, file.file_id)


async def test_what_was_made_of_a_removed_file_s_rows_is_to_be_erased(rig) -> None:
    removed, expired, kept = [await keep(rig.files, ROWS, draft(expires=each)) for each in (None, 3600, None)]
    jobs = [await rig.submit(each) for each in (removed, expired, kept)]
    for job in jobs:
        await rig.set_state(job, "succeeded")
    await rig.files.remove(MINE, removed.file_id)
    await rig.clock.advance(3601)
    await rig.files.sweep()
    rows = await rig.pool.fetch("SELECT job_id FROM jobs WHERE is_file_gone")
    assert {row["job_id"] for row in rows} == set(jobs[:2])


async def test_a_revision_of_several_steps_or_jobs_is_named_and_counted_once(rig) -> None:
    file = await keep(rig.files, ROWS)
    for _ in range(2):
        await rig.set_state(await rig.submit(file), "succeeded", steps=5, of=3)
    used = await rig.uses(file.file_id)
    assert (used.revisions, used.revision_count) == (("copy@3", "copy@2", "copy@1"), 3)


async def test_the_newest_revisions_are_named_and_all_are_counted(rig) -> None:
    file = await keep(rig.files, ROWS)
    for policy, count in (("old", 7), ("first", 600), ("none", 0), ("second", 600)):
        await rig.set_state(await rig.submit(file, policy=policy), "succeeded", steps=count)
        await rig.clock.advance(1)
    used = await rig.uses(file.file_id)
    assert (used.job_count, used.revision_count) == (4, 1207)
    assert used.revisions == tuple(
        [f"second@{n}" for n in range(600, 0, -1)] + [f"first@{n}" for n in range(600, 200, -1)]
    )


async def test_a_removed_or_foreign_file_makes_no_job(rig) -> None:
    file = await keep(rig.files, ROWS)
    with pytest.raises(JobRefused) as refused:
        await rig.submit(replace(file, tenant_id=OTHERS))
    assert (refused.value.code, refused.value.field) == ("file_not_found", "training_file")
    await rig.files.remove(MINE, file.file_id)
    with pytest.raises(JobRefused):
        await rig.submit(file)
    assert await rig.jobs.page_on_files(MINE, metadata={}, after=None, limit=10) == []


async def test_jobs_and_removals_at_once_leave_no_job_without_its_file(rig) -> None:
    for _ in range(10):
        file = await keep(rig.files, ROWS)
        made, gone = await asyncio.gather(
            rig.submit(file), rig.files.remove(MINE, file.file_id), return_exceptions=True
        )
        assert isinstance(made, JobRefused) != isinstance(gone, JobRefused), (made, gone)


async def test_a_file_past_its_time_stays_for_its_job_and_is_not_shown(rig) -> None:
    file, other = [await keep(rig.files, ROWS, draft(expires=3600)) for _ in range(2)]
    job = await rig.submit(file)
    await rig.set_state(job, "running")
    await rig.clock.advance(3601)
    await rig.files.sweep()
    for each in (file, other):
        with pytest.raises(NotFound):
            await rig.files.get(MINE, each.file_id)
    assert b"".join([part async for part in rig.files.read(file)]) == ROWS
    await rig.set_state(job, "failed")
    await rig.files.sweep()
    assert await rig.files.files.expired() == []


async def test_the_sweep_waits_for_a_job_that_is_being_made(rig) -> None:
    for _ in range(10):
        file = await keep(rig.files, ROWS, draft(expires=3600))
        await rig.clock.advance(3599)
        made, _ = await asyncio.gather(rig.submit(file), advance_and_sweep(rig), return_exceptions=True)
        left = [file_id for _, file_id in await rig.files.files.expired()]
        assert isinstance(made, JobRefused) != (file.file_id in left), made


async def advance_and_sweep(rig: Rig) -> None:
    await asyncio.sleep(0)
    await rig.clock.advance(1)
    await rig.files.sweep()


async def test_jobs_are_listed_by_metadata_and_page(rig) -> None:
    file = await keep(rig.files, ROWS, draft(expires=3600))
    made = []
    for metadata in ({"team": "a", "n": "1"}, None, {"team": "b"}, {"team": "a"}):
        made.append(await rig.submit(file, metadata=metadata))
        await rig.clock.advance(1)

    async def listed(metadata, after=None, limit=10):
        found = await rig.jobs.page_on_files(MINE, metadata=metadata, after=after, limit=limit)
        return [job.job_id for job in found]

    assert await listed({}) == made[::-1]
    assert await listed({"team": "a"}) == [made[3], made[0]]
    assert await listed({"team": "a", "n": "1"}) == [made[0]]
    assert await listed(None) == [made[1]]
    assert await listed({}, limit=2) == [made[3], made[2]]
    assert await listed({}, after=made[2]) == [made[1], made[0]]
    with pytest.raises(NotFound):
        await rig.jobs.page_on_files(OTHERS, metadata={}, after=made[0], limit=1)
