"""Evaluation runs in the Postgres schema `rollout`."""

import asyncpg

from mint_common.errors import NotFound, Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.postgres_errors import acquired
from services.rollout.adapters.jobs_postgres import insert_row, read_row
from services.rollout.core.evaluation import EvaluationRun

_CLAIM = """
    UPDATE evaluation_runs SET progress_at = $2 WHERE run_id = (
        SELECT run_id FROM evaluation_runs WHERE state = 'running' AND progress_at < $1
        ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING *
"""
_TOUCH = """
    UPDATE evaluation_runs SET progress_at = $3, scored = greatest(scored, $2)
    WHERE run_id = $1 AND state = 'running'
"""
_FINISH = """
    UPDATE evaluation_runs SET state = $2, reason = $3, scored = $4, value = $5, stderr = $6, finished_at = $7
    WHERE run_id = $1 AND state = 'running'
"""
_CANCEL = """
    UPDATE evaluation_runs SET state = 'cancelled', finished_at = $3
    WHERE tenant_id = $1 AND run_id = $2 AND state = 'running'
"""
_OPEN = "SELECT count(*) FROM evaluation_runs WHERE tenant_id = $1 AND state = 'running'"
_RETRY_SECONDS = 5.0


class PostgresEvaluationRuns:
    """See `ports.EvaluationRuns`."""

    def __init__(self, pool: asyncpg.Pool, *, tenant_runs: int) -> None:
        self._pool = pool
        self._tenant_runs = tenant_runs

    async def add(self, run: EvaluationRun) -> EvaluationRun:
        """Store a run, unless it is there."""
        async with acquired(self._pool) as connection:
            if await connection.fetchval(_OPEN, run.tenant_id) >= self._tenant_runs:
                what = "the evaluation runs of the tenant"
                raise Overloaded(what=what, depth=self._tenant_runs, retry_after_seconds=_RETRY_SECONDS)
            await insert_row(connection, "evaluation_runs", run, conflict="DO NOTHING")
        return await self.run(run.tenant_id, run.run_id)

    async def run(self, tenant_id: TenantId, run_id: str) -> EvaluationRun:
        """Return a tenant's run."""
        query = "SELECT * FROM evaluation_runs WHERE tenant_id = $1 AND run_id = $2"
        row = await self._pool.fetchrow(query, tenant_id, run_id)
        if row is None:
            raise NotFound(kind="evaluation run", name=run_id)
        return read_row(row, EvaluationRun)

    async def runs_of(self, tenant_id: TenantId, *, limit: int) -> list[EvaluationRun]:
        """Return a tenant's newest runs, newest first."""
        query = "SELECT * FROM evaluation_runs WHERE tenant_id = $1 ORDER BY created_at DESC, run_id LIMIT $2"
        return [read_row(row, EvaluationRun) for row in await self._pool.fetch(query, tenant_id, limit)]

    async def cancel(self, tenant_id: TenantId, run_id: str, *, now: float) -> EvaluationRun:
        """End a run without a score."""
        await self._pool.execute(_CANCEL, tenant_id, run_id, now)
        return await self.run(tenant_id, run_id)

    async def claim(self, *, before: float, now: float) -> EvaluationRun | None:
        """Claim the oldest run without progress."""
        row = await self._pool.fetchrow(_CLAIM, before, now)
        return None if row is None else read_row(row, EvaluationRun)

    async def touch(self, run_id: str, *, scored: int, now: float) -> bool:
        """Record progress."""
        return await self._pool.execute(_TOUCH, run_id, scored, now) == "UPDATE 1"

    async def finish(self, run: EvaluationRun) -> None:
        """Store how a run ended."""
        ended = (run.state.value, run.reason, run.scored, run.value, run.stderr, run.finished_at)
        await self._pool.execute(_FINISH, run.run_id, *ended)
