"""Submitted jobs in Postgres.

Invariant: a job's row and its ``job.submitted`` are committed together, and once per request.
"""

from collections.abc import Mapping, Sequence

import asyncpg

from mint_common.errors import AlreadyHandled, NotFound
from mint_common.events import JobSubmitted
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from mint_common.runtime.postgres_rows import insert_of, values_of
from services.gateway.core.fine_tuning.file_uses import job_files
from services.gateway.core.fine_tuning.records import FineTuning
from services.gateway.core.fine_tuning.refusals import file_not_found
from services.gateway.core.mint.submission import SubmittedJob

_COLUMNS = """
    job_id, policy_id, coalesce(policy, policy_id) AS policy, base, spec, submitted_at, warnings, fine_tuning
"""
_ADD = insert_of("submissions", SubmittedJob, "tenant_id", "file_ids")
# A file's deletion waits for its jobs to be committed, and then sees them.
_HOLD_FILES = """
    SELECT file_id FROM files
    WHERE tenant_id = $1 AND file_id = ANY ($2) AND (expires_at IS NULL OR expires_at > $3) FOR SHARE
"""
_ON_FILES = f"""
    SELECT {_COLUMNS} FROM submissions
    WHERE tenant_id = $1 AND fine_tuning IS NOT NULL
        AND CASE WHEN $2::jsonb IS NULL THEN fine_tuning -> 'metadata' = 'null'
            ELSE $2 = '{{}}' OR fine_tuning -> 'metadata' @> $2 END
        AND ($3::float8 IS NULL OR (submitted_at, job_id) < ($3, $4))
    ORDER BY submitted_at DESC, job_id DESC LIMIT $5
"""  # noqa: S608  # a constant
_USING = f"""
    SELECT {_COLUMNS} FROM submissions WHERE tenant_id = $1 AND file_ids @> ARRAY[$2::text]
    ORDER BY submitted_at DESC, job_id DESC
"""  # noqa: S608  # a constant

_PROMOTING = f"""
    SELECT tenant_id, {_COLUMNS} FROM submissions
    WHERE jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null'
    ORDER BY submitted_at, job_id
"""  # noqa: S608  # a constant
_END_PROMOTION = """
    UPDATE submissions SET fine_tuning = jsonb_set(
        fine_tuning, '{promote}',
        fine_tuning -> 'promote' || jsonb_build_object('ended_at', $2::float8, 'problem', $3::text)
    ) WHERE job_id = $1 AND jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null'
"""
_LAST_TASK = """
    SELECT nullif(spec ->> 'task', '') FROM submissions WHERE tenant_id = $1 AND policy_id = $2
    ORDER BY submitted_at DESC LIMIT 1
"""
_LATEST = f"""
    SELECT {_COLUMNS} FROM submissions WHERE tenant_id = $1 AND (
        job_id = ANY ($3::text[]) OR job_id IN (
            SELECT job_id FROM submissions WHERE tenant_id = $1 ORDER BY submitted_at DESC LIMIT $2
        )
    )
    ORDER BY submitted_at DESC
"""  # noqa: S608  # a constant


class PostgresSubmissions:
    """Jobs on tasks and on files; see `services.gateway.ports.jobs.Submissions`."""

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
    ) -> SubmittedJob:
        """Store a job and its event, or return the job of the same request."""
        submission = SubmittedJob(
            job_id=event.job_id,
            policy_id=event.policy_id,
            policy=policy,
            base=event.base,
            spec=event.spec,
            submitted_at=self._clock.now(),
            warnings=tuple(warnings),
            fine_tuning=fine_tuning,
        )
        files = job_files(event.spec)
        try:
            async with self._ledger.transaction(cause) as transaction:
                await self._hold_files(transaction.connection, event.tenant_id, files)
                await transaction.connection.execute(
                    _ADD, *values_of(submission), event.tenant_id, list(files)
                )
                await transaction.emit(event)
        except AlreadyHandled:
            # The same request came twice at once and the other one has won.
            stored = await self.get(event.tenant_id, event.job_id)
            assert stored is not None, "a handled cause has a row"
            return stored
        return submission

    async def _hold_files(
        self, connection: PostgresConnection, tenant_id: TenantId, files: Mapping[str, str]
    ) -> None:
        rows = await connection.fetch(_HOLD_FILES, tenant_id, list(files), self._clock.now()) if files else []
        held = {row["file_id"] for row in rows}
        for file_id, field in files.items():
            if file_id not in held:
                raise file_not_found(field, file_id)

    async def get(self, tenant_id: TenantId, job_id: JobId) -> SubmittedJob | None:
        """Return one submitted job of a tenant."""
        row = await self._pool.fetchrow(
            f"SELECT {_COLUMNS} FROM submissions WHERE tenant_id = $1 AND job_id = $2",  # noqa: S608  (a constant)
            tenant_id,
            job_id,
        )
        return None if row is None else from_row(row, SubmittedJob)

    async def last_task(self, tenant_id: TenantId, policy_id: PolicyId) -> str | None:
        """Return the task of a policy's newest job, None without a job or when that one is on a file."""
        found: str | None = await self._pool.fetchval(_LAST_TASK, tenant_id, policy_id)
        return found

    async def latest(
        self, tenant_id: TenantId, *, limit: int, also: Sequence[str] = ()
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's ``limit`` newest submitted jobs and those with the ids ``also``, newest first."""
        rows = await self._pool.fetch(_LATEST, tenant_id, limit, also)
        return [from_row(row, SubmittedJob) for row in rows]

    async def on_files(
        self, tenant_id: TenantId, *, metadata: Mapping[str, str] | None, after: JobId | None, limit: int
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's jobs on files, newest first."""
        below = None if after is None else await self.get(tenant_id, after)
        if after is not None and (below is None or below.fine_tuning is None):
            raise NotFound(kind="job", name=after)
        wanted = None if metadata is None else dict(metadata)
        at = None if below is None else below.submitted_at
        rows = await self._pool.fetch(_ON_FILES, tenant_id, wanted, at, after, limit)
        return [from_row(row, SubmittedJob) for row in rows]

    async def promoting(self) -> Sequence[tuple[TenantId, SubmittedJob]]:
        """Return the jobs of all tenants whose promotion is open."""
        rows = await self._pool.fetch(_PROMOTING)
        return [(TenantId(row["tenant_id"]), from_row(row, SubmittedJob)) for row in rows]

    async def end_promotion(self, job_id: JobId, *, problem: str) -> None:
        """Store what came of a job's promotion."""
        await self._pool.execute(_END_PROMOTION, job_id, self._clock.now(), problem)

    async def using(self, tenant_id: TenantId, file_id: str) -> Sequence[SubmittedJob]:
        """Return the jobs of a file, newest first."""
        return [from_row(row, SubmittedJob) for row in await self._pool.fetch(_USING, tenant_id, file_id)]
