"""Jobs as their tenants make and read them, in the Postgres schema `rollout`.

Invariants: a job's row and its ``job.submitted`` are committed together, once a job, while its files are
held; a promotion is open until what came of it is stored.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import asyncpg

from mint_common.errors import AlreadyHandled, NotFound
from mint_common.events import JobSubmitted
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import PostgresConnection
from mint_common.timeline import TimelineEntry, TimelinePlace
from services.rollout.adapters.jobs_postgres import LISTED_JOBS, SELECT_JOB
from services.rollout.adapters.timeline_postgres import job_entries
from services.rollout.core.fine_tuning.file_uses import job_files
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.fine_tuning.refusals import file_not_found
from services.rollout.core.job import Job, open_job

_ADD = insert_of("jobs", Job)
# A file's deletion waits for its jobs to be committed, and then sees them.
_HOLD_FILES = """
    SELECT file_id FROM files
    WHERE tenant_id = $1 AND file_id = ANY ($2) AND (expires_at IS NULL OR expires_at > $3) FOR SHARE
"""
_ON_FILES = f"""
    {SELECT_JOB} WHERE tenant_id = $1 AND fine_tuning IS NOT NULL
        AND CASE WHEN $2::jsonb IS NULL THEN fine_tuning -> 'metadata' = 'null'
            ELSE $2 = '{{}}' OR fine_tuning -> 'metadata' @> $2 END
        AND ($3::float8 IS NULL OR (created_at, job_id) < ($3, $4))
    ORDER BY created_at DESC, job_id DESC LIMIT $5
"""
_READERS = f"""
    {LISTED_JOBS} WHERE tenant_id = $1
        AND (spec #>> '{{data,training,file_id}}' = $2 OR spec #>> '{{data,evaluation,file,file_id}}' = $2)
    ORDER BY created_at DESC, job_id DESC
"""
_NUMBERS = """
    SELECT job_id, (revision ->> 'number')::integer AS number FROM waves
    WHERE job_id = ANY ($1) AND jsonb_typeof(revision) = 'object' ORDER BY step DESC
"""
_PROMOTING = f"""
    {SELECT_JOB} WHERE jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null'
        AND finished_at IS NOT NULL
    ORDER BY created_at, job_id
"""
_END_PROMOTION = """
    UPDATE jobs SET fine_tuning = jsonb_set(
        fine_tuning, '{promote}',
        fine_tuning -> 'promote' || jsonb_build_object('ended_at', $2::float8, 'problem', $3::text)
    ) WHERE job_id = $1 AND jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null'
"""
_WORK = """
    SELECT 'job ' || job_id AS work FROM jobs
    WHERE tenant_id = $1 AND policy_id = $2 AND finished_at IS NULL
    UNION ALL
    SELECT 'evaluation run ' || run_id FROM evaluation_runs
    WHERE tenant_id = $1 AND policy_id = $2 AND finished_at IS NULL
    ORDER BY work LIMIT $3
"""
MAX_WORK = 5
"""Maximum jobs and runs of a policy that are named together."""
_LAST_TASK = """
    SELECT nullif(spec ->> 'task', '') FROM jobs WHERE tenant_id = $1 AND policy_id = $2
    ORDER BY created_at DESC LIMIT 1
"""


class PostgresTenantJobs:
    """Jobs on tasks and on files. Those of other tenants are not there. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger, clock: Clock) -> None:
        self._pool = pool
        self._ledger = ledger
        self._clock = clock

    async def submit(
        self,
        event: JobSubmitted,
        *,
        cause: str,
        policy: str,
        warnings: Sequence[str],
        fine_tuning: FineTuning | None = None,
    ) -> Job:
        """Store a job and its event; return the stored job, unchanged, when the cause is known.

        ``cause`` identifies the request; ``policy`` is the policy's name now. Raises JobRefused when a file
        of the job has been deleted meanwhile.
        """
        job = open_job(
            event, policy=policy, warnings=warnings, fine_tuning=fine_tuning, now=self._clock.now()
        )
        try:
            async with self._ledger.transaction(cause) as transaction:
                await self._hold_files(transaction.connection, event.tenant_id, job_files(event.spec))
                await transaction.connection.execute(_ADD, *values_of(job))
                await transaction.emit(event)
        except AlreadyHandled:
            # The same request came twice at once and the other one has won.
            stored = await self.get(event.tenant_id, event.job_id)
            assert stored is not None, "a handled cause has a row"
            return stored
        return job

    async def _hold_files(
        self, connection: PostgresConnection, tenant_id: TenantId, files: Mapping[str, str]
    ) -> None:
        rows = await connection.fetch(_HOLD_FILES, tenant_id, list(files), self._clock.now()) if files else []
        held = {row["file_id"] for row in rows}
        for file_id, field in files.items():
            if file_id not in held:
                raise file_not_found(field, file_id)

    async def get(self, tenant_id: TenantId, job_id: JobId) -> Job | None:
        """Return one job of a tenant."""
        row = await self._pool.fetchrow(
            f"{SELECT_JOB} WHERE tenant_id = $1 AND job_id = $2", tenant_id, job_id
        )
        return None if row is None else from_row(row, Job)

    async def on_file(self, tenant_id: TenantId, job_id: JobId, *, name: str = "") -> Job:
        """Return one job on a file. Raises NotFound, which names the requested ``name``."""
        job = await self.get(tenant_id, job_id)
        if job is None or job.fine_tuning is None:
            raise NotFound(kind="job", name=name or job_id)
        return job

    async def work_of(self, tenant_id: TenantId, policy_id: PolicyId) -> Sequence[str]:
        """Return unfinished jobs and evaluation runs of a policy, each as its kind and id."""
        return [row["work"] for row in await self._pool.fetch(_WORK, tenant_id, policy_id, MAX_WORK)]

    async def last_task(self, tenant_id: TenantId, policy_id: PolicyId) -> str | None:
        """Return the task of a policy's newest job, None without a job or when that one is on a file."""
        found: str | None = await self._pool.fetchval(_LAST_TASK, tenant_id, policy_id)
        return found

    async def page_on_files(
        self, tenant_id: TenantId, *, metadata: Mapping[str, str] | None, after: JobId | None, limit: int
    ) -> Sequence[Job]:
        """Return a tenant's jobs on files from below ``after``, newest first. Raises NotFound.

        They have all of ``metadata``; with None they have none at all.
        """
        below = None if after is None else await self.on_file(tenant_id, after)
        wanted = None if metadata is None else dict(metadata)
        at = None if below is None else below.created_at
        rows = await self._pool.fetch(_ON_FILES, tenant_id, wanted, at, after, limit)
        return [from_row(row, Job) for row in rows]

    async def readers(self, tenant_id: TenantId, file_id: str) -> Sequence[Job]:
        """Return the jobs that train or are evaluated on a file, newest first, without their graders."""
        return [from_row(row, Job) for row in await self._pool.fetch(_READERS, tenant_id, file_id)]

    async def revision_numbers(self, jobs: Sequence[JobId]) -> Mapping[JobId, Sequence[int]]:
        """Return the numbers of the revisions that jobs' steps led to, newest first."""
        found: dict[JobId, list[int]] = defaultdict(list)
        for row in await self._pool.fetch(_NUMBERS, jobs):
            found[row["job_id"]].append(row["number"])
        return found

    async def timeline(
        self, tenant_id: TenantId, policy_id: PolicyId | None, *, limit: int, before: TimelinePlace
    ) -> Sequence[TimelineEntry]:
        """Return when jobs were submitted and how they ended, below a place, newest first.

        They are a policy's, or all of the tenant's.
        """
        return await job_entries(self._pool, tenant_id, policy_id, limit=limit, before=before)

    async def promoting(self) -> Sequence[Job]:
        """Return the ended jobs of all tenants whose promotion is open."""
        return [from_row(row, Job) for row in await self._pool.fetch(_PROMOTING)]

    async def end_promotion(self, job_id: JobId, *, problem: str) -> None:
        """Store what came of a job's promotion, if it is open; an empty ``problem``: the alias was moved."""
        await self._pool.execute(_END_PROMOTION, job_id, self._clock.now(), problem)
