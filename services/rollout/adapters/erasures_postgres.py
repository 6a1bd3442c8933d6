"""Pending erasures, in the Postgres schema `rollout`."""

import asyncpg

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from services.rollout.core.erasure import EndedJob
from services.rollout.core.evaluation import DELETED

_FILE_GONE = """
    INSERT INTO deleted_files (file_id, tenant_id, deleted_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
# What a fault quotes of a row goes with the file. Blobs that were erased before are looked for once more.
_JOBS_OF_FILE = """
    UPDATE jobs SET is_file_gone = true, erase_after = 0, erased_at = NULL,
        reason = CASE WHEN state = 'failed' THEN $3 ELSE reason END,
        fault = CASE WHEN jsonb_typeof(fault) = 'object' THEN fault || jsonb_build_object('message', $3::text)
            ELSE fault END
    WHERE tenant_id = $2 AND NOT is_file_gone
        AND (spec #>> '{data,training,file_id}' = $1 OR spec #>> '{data,evaluation,file,file_id}' = $1)
"""
# As jobs of deleted files: what they left is erased at once.
_JOBS_OF_POLICY = """
    UPDATE jobs SET is_file_gone = true, erase_after = 0, erased_at = NULL
    WHERE tenant_id = $1 AND policy_id = $2 AND NOT is_file_gone
"""
_ANSWERS_OF_POLICY = """
    DELETE FROM evaluation_rows WHERE run_id IN (
        SELECT run_id FROM evaluation_runs WHERE tenant_id = $1 AND policy_id = $2
    )
"""
# Of two that claim a job at once, the second waits for the first, and finds it claimed.
_CLAIM = """
    WITH due AS (
        (SELECT job_id FROM jobs WHERE is_file_gone AND erased_at IS NULL AND erase_after <= $2
            AND finished_at IS NOT NULL ORDER BY erase_after LIMIT $4)
        UNION
        (SELECT job_id FROM jobs WHERE finished_at < $1 AND erased_at IS NULL AND erase_after <= $2
            ORDER BY finished_at LIMIT $4)
    ), claimed AS (
        UPDATE jobs SET erase_after = $3
        WHERE job_id IN (SELECT job_id FROM due LIMIT $4) AND erase_after <= $2 AND erased_at IS NULL
        RETURNING job_id, policy_id, base, finished_at
    )
    SELECT claimed.*,
        EXISTS (SELECT FROM waves WHERE waves.job_id = claimed.job_id AND jsonb_typeof(record) = 'object')
            AS is_recorded,
        array(SELECT wave_id FROM waves WHERE waves.job_id = claimed.job_id
            AND jsonb_typeof(record) = 'object' AND jsonb_typeof(revision) IS DISTINCT FROM 'object')
            AS untold
    FROM claimed
"""
_SETTLE = """
    UPDATE jobs SET erase_after = coalesce($2::double precision, erase_after),
        erased_at = CASE WHEN $2::double precision IS NULL THEN $3::double precision END
    WHERE job_id = $1
"""
# As `core.evaluation.reason_of` says it: the one reason that quotes nothing of a row.
_UNREAD = "concat(data #>> '{file,filename}', ' (', data #>> '{file,file_id}', ') ', $3::text)"
_ERASE_RUNS = f"""
    WITH gone AS (
        SELECT run_id FROM deleted_files
        JOIN evaluation_runs ON evaluation_runs.data #>> '{{file,file_id}}' = deleted_files.file_id
            AND evaluation_runs.tenant_id = deleted_files.tenant_id
        WHERE finished_at IS NOT NULL AND (
            EXISTS (SELECT FROM evaluation_rows WHERE evaluation_rows.run_id = evaluation_runs.run_id)
            OR (state = 'failed' AND reason NOT IN ($2, {_UNREAD}))
        )
        LIMIT $1
    ), erased AS (
        DELETE FROM evaluation_rows WHERE run_id IN (SELECT run_id FROM gone)
    ), told AS (
        UPDATE evaluation_runs SET reason = $2
        WHERE state = 'failed' AND reason <> {_UNREAD} AND run_id IN (SELECT run_id FROM gone)
    )
    SELECT count(*) FROM gone
"""  # noqa: S608  # a constant
_FORGET = "DELETE FROM deleted_files WHERE deleted_at < $1"
ERASED_REASON = "what went wrong was erased with the rows of the file"


async def note_deleted_file(
    connection: PostgresConnection, tenant_id: TenantId, file_id: str, *, now: float
) -> None:
    """Note that a file is gone which no open job reads, in the transaction that removes it. Idempotent.

    Its jobs are claimed at once from now on, and what their faults may quote of its rows is erased.
    """
    await connection.execute(_FILE_GONE, file_id, tenant_id, now)
    await connection.execute(_JOBS_OF_FILE, file_id, tenant_id, ERASED_REASON)


class PostgresErasures:
    """Erasable data of ended jobs and runs, and of deleted files. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def erase_policy(self, tenant_id: TenantId, policy_id: PolicyId) -> None:
        """Erase what the jobs and evaluation runs of a removed policy left of their rows. Idempotent."""
        await self._pool.execute(_JOBS_OF_POLICY, tenant_id, policy_id)
        await self._pool.execute(_ANSWERS_OF_POLICY, tenant_id, policy_id)

    async def claim(self, *, before: float, now: float, next_at: float, limit: int) -> list[EndedJob]:
        """Return jobs that ended before ``before`` or read a deleted file, each to one caller only.

        Not those that are erased, or whose next sweep is later than ``now``. One whose caller does not
        `settle` it is claimed again from ``next_at`` on.
        """
        return [
            from_row(row, EndedJob) for row in await self._pool.fetch(_CLAIM, before, now, next_at, limit)
        ]

    async def settle(self, job: EndedJob, *, next_at: float | None, now: float) -> None:
        """Set a job's next sweep, None: nothing of it is left."""
        await self._pool.execute(_SETTLE, job.job_id, next_at, now)

    async def erase_runs(self, *, limit: int) -> int:
        """Erase answers, and what faults quote, of ended evaluation runs over files that are gone.

        Returns how many runs these were, ``limit`` at most.
        """
        return int(await self._pool.fetchval(_ERASE_RUNS, limit, ERASED_REASON, DELETED))

    async def forget_files(self, *, before: float) -> None:
        """Drop files deleted before a time: a run that ends later keeps its answers."""
        await self._pool.execute(_FORGET, before)
