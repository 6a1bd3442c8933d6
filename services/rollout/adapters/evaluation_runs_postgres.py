"""Evaluation runs in the Postgres schema `rollout`."""

from collections.abc import Sequence
from dataclasses import astuple

import asyncpg

from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.periodic import prune_rows
from mint_common.runtime.postgres import columns_of, found_record, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import acquired
from services.rollout.core.evaluation import EvaluationRun, ScoredRow

_COLUMNS = columns_of(EvaluationRun)
_RUN = f"SELECT {_COLUMNS} FROM evaluation_runs WHERE tenant_id = $1 AND run_id = $2"  # noqa: S608  # names of our own
_CLAIM = f"""
    UPDATE evaluation_runs SET progress_at = $2 WHERE run_id = (
        SELECT run_id FROM evaluation_runs waiting WHERE state = 'running' AND progress_at < $1 AND $3 > (
            SELECT count(*) FROM evaluation_runs other
            WHERE other.tenant_id = waiting.tenant_id AND other.state = 'running' AND other.progress_at >= $1
        )
        ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING {_COLUMNS}
"""  # noqa: S608  # as above
_ADD = insert_of("evaluation_runs", EvaluationRun) + " ON CONFLICT DO NOTHING"
_TOUCH = """
    UPDATE evaluation_runs SET progress_at = $3, scored = greatest(scored, $2)
    WHERE run_id = $1 AND state = 'running'
"""
_FINISH = """
    UPDATE evaluation_runs SET state = $2, reason = $3, scored = $4, value = $5, stderr = $6,
        finished_at = $7, grader_errors = $8, dropped = $9, episodes = $10
    WHERE run_id = $1 AND state = 'running'
"""
_ADD_ROW = """
    INSERT INTO evaluation_rows (run_id, "row", score, answer, weight, fault, message)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# A run of a job is signed by the job, and not by a key: a tenant may give its own runs any suite.
_OLD_RUN = """
    finished_at < $1 AND state <> 'running'
    AND NOT EXISTS (SELECT FROM evaluation_rows kept WHERE kept.run_id = evaluation_runs.run_id)
"""
_FORGET_ROWS = """
    DELETE FROM evaluation_rows WHERE run_id IN (
        SELECT run_id FROM evaluation_runs WHERE tenant_id = $1 AND finished_at IS NOT NULL
            AND starts_with(caller -> 'authority' ->> 'key_id', 'job:') = $3
        ORDER BY finished_at DESC, run_id OFFSET $2
    )
"""
_ROWS = """
    SELECT "row", score, answer, weight, fault, message FROM evaluation_rows
    WHERE run_id = $1 AND "row" > $2 ORDER BY "row" LIMIT $3
"""
_CANCEL = """
    UPDATE evaluation_runs SET state = 'cancelled', finished_at = $3
    WHERE tenant_id = $1 AND run_id = $2 AND state = 'running'
"""
_LISTED = ", ".join(name for name in EvaluationRun.__slots__ if name != "data")
_RUNS = f"""
    SELECT {_LISTED}, jsonb_set(data, '{{grader}}', 'null', false) AS data FROM evaluation_runs
    WHERE tenant_id = $1 AND ($3::float8 IS NULL OR created_at < $3 OR (created_at = $3 AND run_id > $4))
    ORDER BY created_at DESC, run_id LIMIT $2
"""  # noqa: S608  # names of our own fields
_STORED = "SELECT run_id FROM evaluation_runs WHERE run_id = ANY ($1)"
_LOCK_TENANT = "SELECT pg_advisory_xact_lock(hashtextextended('mint_rollout_evaluations_' || $1, 0))"
_CANCEL_OF_ENDED_JOBS = """
    UPDATE evaluation_runs SET state = 'cancelled', reason = 'its job has ended', finished_at = $1 FROM jobs
    WHERE evaluation_runs.state = 'running' AND starts_with(caller -> 'authority' ->> 'key_id', 'job:')
        AND jobs.job_id = substr(caller -> 'authority' ->> 'key_id', 5)
        AND evaluation_runs.tenant_id = jobs.tenant_id AND jobs.state IN ('succeeded', 'failed', 'cancelled')
"""
_OPEN = """
    SELECT count(*) FROM evaluation_runs WHERE tenant_id = $1 AND state = 'running'
        AND NOT starts_with(caller -> 'authority' ->> 'key_id', 'job:')
"""
_RETRY_SECONDS = 5.0
RUNS_WITH_ROWS = 64
"""Number of a tenant's newest runs that retain their rows; those of its jobs are counted apart."""


class PostgresEvaluationRuns:
    """Evaluation runs. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, runs: Sequence[EvaluationRun], *, max_open: int | None) -> list[EvaluationRun]:
        """Store all of a tenant's runs whose ids are new, or none; return the stored form of each.

        Raises Overloaded if its tenant would then have more than ``max_open`` open, not counting those
        of its jobs.
        """
        tenant_id = runs[0].tenant_id
        async with acquired(self._pool) as connection, connection.transaction():
            if max_open is not None:
                await connection.execute(_LOCK_TENANT, tenant_id)
            found = await connection.fetch(_STORED, [run.run_id for run in runs])
            stored = {row["run_id"] for row in found}
            new = [run for run in runs if run.run_id not in stored]
            if max_open is not None and new:
                open_now = await connection.fetchval(_OPEN, tenant_id)
                if open_now + len(new) > max_open:
                    what = "the evaluation runs of the tenant"
                    raise Overloaded(what=what, depth=max_open, retry_after_seconds=_RETRY_SECONDS)
            for run in new:
                await connection.execute(_ADD, *values_of(run))
        return [await self.run(tenant_id, run.run_id) for run in runs]

    async def run(self, tenant_id: TenantId, run_id: str) -> EvaluationRun:
        """Return a tenant's run. Raises NotFound."""
        row = await self._pool.fetchrow(_RUN, tenant_id, run_id)
        return found_record(row, EvaluationRun, kind="evaluation run", name=run_id)

    async def runs_of(
        self, tenant_id: TenantId, *, limit: int, after: EvaluationRun | None = None
    ) -> list[EvaluationRun]:
        """Return a tenant's newest runs, older than ``after`` if given, newest first, without their graders.

        Graders may be large.
        """
        place = (None, None) if after is None else (after.created_at, after.run_id)
        rows = await self._pool.fetch(_RUNS, tenant_id, limit, *place)
        return [from_row(row, EvaluationRun) for row in rows]

    async def cancel(self, tenant_id: TenantId, run_id: str, *, now: float) -> EvaluationRun:
        """End a tenant's run without a score, unless it has ended; return it. Raises NotFound."""
        await self._pool.execute(_CANCEL, tenant_id, run_id, now)
        return await self.run(tenant_id, run_id)

    async def cancel_of_ended_jobs(self, *, now: float) -> None:
        """End the runs that measure jobs which have ended."""
        await self._pool.execute(_CANCEL_OF_ENDED_JOBS, now)

    async def claim(self, *, before: float, now: float, of_a_tenant: int) -> EvaluationRun | None:
        """Return the oldest running one without progress since ``before``, to one caller only.

        Those of a tenant that has ``of_a_tenant`` others with progress wait.
        """
        row = await self._pool.fetchrow(_CLAIM, before, now, of_a_tenant)
        return None if row is None else from_row(row, EvaluationRun)

    async def touch(self, run_id: str, *, scored: int, now: float) -> bool:
        """Record progress; return whether it still runs."""
        return await self._pool.execute(_TOUCH, run_id, scored, now) == "UPDATE 1"

    async def finish(self, run: EvaluationRun, rows: Sequence[ScoredRow]) -> None:
        """Store how a run ended, and its rows; one that has ended does not change.

        The rows of a tenant's older runs are forgotten.
        """
        ended = (run.state.value, run.reason, run.scored, run.value, run.stderr, run.finished_at)
        counts = (dict(run.grader_errors), run.dropped, dict(run.episodes))
        is_of_job = run.caller.authority.key_id.startswith("job:")
        async with acquired(self._pool) as connection, connection.transaction():
            if await connection.execute(_FINISH, run.run_id, *ended, *counts) != "UPDATE 1":
                return
            await connection.executemany(_ADD_ROW, [(run.run_id, *astuple(row)) for row in rows])
            await connection.execute(_FORGET_ROWS, run.tenant_id, RUNS_WITH_ROWS, is_of_job)

    async def prune(self, *, before: float) -> None:
        """Delete runs that ended before a time and whose rows are no longer retained."""
        await prune_rows(self._pool, "evaluation_runs", _OLD_RUN, before)

    async def rows(self, run_id: str, *, after: int, limit: int) -> list[ScoredRow]:
        """Return rows of a run after row ``after``, in order; none of one whose rows are deleted."""
        return [from_row(row, ScoredRow) for row in await self._pool.fetch(_ROWS, run_id, after, limit)]
