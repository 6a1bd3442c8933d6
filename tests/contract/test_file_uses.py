"""Files that jobs read: kept while a job reads them, and a removed one makes no job."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from contract.files_rig import MINE, OTHERS, ROWS, draft, keep, keeper
from contract.schemas import empty_schema

from mint_common.blobs.localfs import LocalBlobs
from mint_common.errors import NotFound, Unavailable
from mint_common.events import JobData, JobFile, JobSubmitted
from mint_common.ids import JobId, TenantId, new_id
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.testing.clock import ManualClock
from mint_common.testing.factories import BASE, LORA, POLICY, SPEC
from services.gateway.adapters.submissions_postgres import PostgresSubmissions
from services.gateway.core.files.records import FileRecord
from services.gateway.core.fine_tuning.records import FineTuning, Revision, TunedJob, TunedStep, Verb
from services.gateway.core.fine_tuning.refusals import JobRefused
from services.gateway.handlers.files import FileKeeper
from services.gateway.handlers.fine_tuning.file_uses import FileUses
from services.gateway.handlers.fine_tuning.jobs import FineTuningJobs

pytestmark = pytest.mark.integration


class JobsInMemory:
    """The part of rollout that says how far a job is."""

    def __init__(self) -> None:
        self.states: dict[JobId, str] = {}
        self.step_counts: dict[JobId, int] = {}
        self.untrained_steps = 0
        self.told: list[tuple[JobId, bool]] = []
        self.on_progress: Callable[[JobId], Awaitable[None]] | None = None
        self.deleted: list[str] = []
        self.is_away = False

    async def progress(self, _tenant_id: TenantId, job_id: JobId, *, steps: bool) -> TunedJob:
        """Return a job's state. Raises NotFound."""
        if self.on_progress is not None:
            await self.on_progress(job_id)
        if job_id not in self.states:
            raise NotFound(kind="job", name=job_id)
        self.told.append((job_id, steps))
        count = self.step_counts.get(job_id, 0)
        numbers = [min(n, count - self.untrained_steps) for n in range(1, count + 1)]
        done = [
            TunedStep(step=n, state="published", requested_at=1.0, revision=Revision(digest="d", number=of))
            for n, of in enumerate(numbers, start=1)
        ]
        return TunedJob(state=self.states[job_id], step=count, steps=tuple(done) if steps else ())

    async def delete_file(self, _tenant_id: TenantId, file_id: str) -> None:
        """Note that a file is gone. Raises Unavailable."""
        if self.is_away:
            raise Unavailable(what="rollout", problem="away")
        self.deleted.append(file_id)

    async def steer(self, tenant_id: TenantId, job_id: str, _verb: Verb, _shape: type[TunedJob]) -> TunedJob:
        """Leave a job as it is, and return it. Raises NotFound."""
        return await self.progress(tenant_id, JobId(job_id), steps=False)


class Rig:
    """Files and jobs over one schema."""

    def __init__(self, pool: asyncpg.Pool, files: FileKeeper, clock: ManualClock) -> None:
        self.files = files
        self.clock = clock
        self.rollout = JobsInMemory()
        self.submissions = PostgresSubmissions(pool, PostgresLedger(pool, clock), clock)
        jobs = FineTuningJobs(submissions=self.submissions, rollout=self.rollout)
        self.uses = FileUses(jobs=jobs, keeper=files)

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
        await self.submissions.submit(event, cause=job_id, policy=policy, warnings=(), fine_tuning=told)
        return job_id


@pytest.fixture
async def rig(shared_database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    clock, blobs = ManualClock(), LocalBlobs(tmp_path / "blobs")
    async with (
        empty_schema(shared_database, "gateway") as pool,
        keeper(pool, blobs, tmp_path, clock) as uploads,
    ):
        yield Rig(pool, uploads.keeper, clock)


async def test_a_file_goes_when_its_jobs_have_ended(rig) -> None:
    file = await keep(rig.files, ROWS)
    job = await rig.submit(file)
    for state in (None, "running", "paused"):
        if state is not None:
            rig.rollout.states[job] = state
        with pytest.raises(JobRefused) as refused:
            await rig.uses.remove(MINE, file.file_id)
        assert refused.value.code == "file_in_use"
    rig.rollout.states[job] = "succeeded"
    used = await rig.uses.remove(MINE, file.file_id)
    assert [(each.status, each.use) for each in used.jobs] == [("succeeded", "training")]
    with pytest.raises(NotFound):
        await rig.files.get(MINE, file.file_id)
    with pytest.raises(NotFound):
        await rig.uses.remove(MINE, file.file_id)


async def test_rollout_is_told_of_each_removed_file_once_it_answers(rig) -> None:
    told, later, expired = [await keep(rig.files, ROWS, draft(expires=each)) for each in (None, None, 3600)]
    await rig.uses.remove(MINE, told.file_id)
    assert rig.rollout.deleted == [told.file_id]
    rig.rollout.is_away = True
    await rig.uses.remove(MINE, later.file_id)
    await rig.clock.advance(3601)
    await rig.uses.sweep()
    assert rig.rollout.deleted == [told.file_id]
    rig.rollout.is_away = False
    for _ in range(2):
        await rig.uses.sweep()
    assert sorted(rig.rollout.deleted[1:]) == sorted([later.file_id, expired.file_id])


async def test_a_revision_of_several_steps_or_jobs_is_named_and_counted_once(rig) -> None:
    file = await keep(rig.files, ROWS)
    for _ in range(2):
        job = await rig.submit(file)
        rig.rollout.states[job], rig.rollout.step_counts[job] = "succeeded", 5
    rig.rollout.untrained_steps = 2
    used = await rig.uses.of(MINE, file.file_id)
    assert (used.revisions, used.revision_count) == (("copy@3", "copy@2", "copy@1"), 3)


async def test_only_steps_that_are_named_are_read(rig) -> None:
    file = await keep(rig.files, ROWS, draft(expires=3600))
    made = []
    for policy, count in (("old", 7), ("first", 600), ("none", 0), ("second", 600)):
        made.append(await rig.submit(file, policy=policy))
        rig.rollout.states[made[-1]], rig.rollout.step_counts[made[-1]] = "succeeded", count
        await rig.clock.advance(1)
    used = await rig.uses.of(MINE, file.file_id)
    assert (used.job_count, used.revision_count) == (4, 1207)
    assert used.revisions == tuple(
        [f"second@{n}" for n in range(600, 0, -1)] + [f"first@{n}" for n in range(600, 200, -1)]
    )
    assert {job for job, steps in rig.rollout.told if steps} == {made[1], made[3]}
    rig.rollout.told.clear()
    await rig.clock.advance(3601)
    await rig.uses.sweep()
    assert sorted(rig.rollout.told) == sorted((job, False) for job in made)


async def test_a_job_that_comes_between_look_and_removal_keeps_its_file(rig) -> None:
    file = await keep(rig.files, ROWS)
    await rig.submit(file)
    with pytest.raises(JobRefused, match="reads file"):
        await rig.files.remove(MINE, file.file_id, jobs=[])
    assert await rig.files.get(MINE, file.file_id) == file


async def test_a_removed_or_foreign_file_makes_no_job(rig) -> None:
    file = await keep(rig.files, ROWS)
    with pytest.raises(JobRefused) as refused:
        await rig.submit(replace(file, tenant_id=OTHERS))
    assert (refused.value.code, refused.value.field) == ("file_not_found", "training_file")
    await rig.uses.remove(MINE, file.file_id)
    with pytest.raises(JobRefused):
        await rig.submit(file)
    assert await rig.submissions.on_files(MINE, metadata={}, after=None, limit=10) == []


async def test_jobs_and_removals_at_once_leave_no_job_without_its_file(rig) -> None:
    for _ in range(10):
        file = await keep(rig.files, ROWS)
        made, gone = await asyncio.gather(
            rig.submit(file), rig.files.remove(MINE, file.file_id, jobs=[]), return_exceptions=True
        )
        assert isinstance(made, JobRefused) != isinstance(gone, JobRefused), (made, gone)


async def test_a_file_past_its_time_stays_for_its_job_and_is_not_shown(rig) -> None:
    file, other = [await keep(rig.files, ROWS, draft(expires=3600)) for _ in range(2)]
    job = await rig.submit(file)
    rig.rollout.states[job] = "running"
    await rig.clock.advance(3601)
    await rig.uses.sweep()
    for each in (file, other):
        with pytest.raises(NotFound):
            await rig.files.get(MINE, each.file_id)
    assert b"".join([part async for part in rig.files.read(file)]) == ROWS
    rig.rollout.states[job] = "failed"
    await rig.uses.sweep()
    assert await rig.files.files.expired() == []


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_sweep_keeps_the_file_of_a_job_that_it_has_not_seen(rig, is_early: bool) -> None:
    """The file expires, or its job is committed, while the sweep asks how far jobs are."""
    first, file = [await keep(rig.files, ROWS, draft(expires=3600 + more)) for more in (0, 60)]
    asked = await rig.submit(first)
    rig.rollout.states[asked] = "running"
    job = await rig.submit(file) if is_early else None
    await rig.clock.advance(3601)

    async def meanwhile(_job_id: JobId) -> None:
        nonlocal job
        rig.rollout.on_progress = None
        job = job or await rig.submit(file)
        await rig.clock.advance(60)

    rig.rollout.on_progress = meanwhile
    await rig.uses.sweep()
    assert [file_id for _, file_id in await rig.files.files.expired()] == [first.file_id, file.file_id]


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
    await rig.uses.sweep()


async def test_jobs_are_listed_by_metadata_and_page(rig) -> None:
    file = await keep(rig.files, ROWS, draft(expires=3600))
    made = []
    for metadata in ({"team": "a", "n": "1"}, None, {"team": "b"}, {"team": "a"}):
        made.append(await rig.submit(file, metadata=metadata))
        await rig.clock.advance(1)

    async def listed(metadata, after=None, limit=10):
        found = await rig.submissions.on_files(MINE, metadata=metadata, after=after, limit=limit)
        return [job.job_id for job in found]

    assert await listed({}) == made[::-1]
    assert await listed({"team": "a"}) == [made[3], made[0]]
    assert await listed({"team": "a", "n": "1"}) == [made[0]]
    assert await listed(None) == [made[1]]
    assert await listed({}, limit=2) == [made[3], made[2]]
    assert await listed({}, after=made[2]) == [made[1], made[0]]
    with pytest.raises(NotFound):
        await rig.submissions.on_files(OTHERS, metadata={}, after=made[0], limit=1)
