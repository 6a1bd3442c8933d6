"""Submitted jobs in Postgres.

Invariant: a job's row and its ``job.submitted`` are committed together, and once per request.
"""

from collections.abc import Sequence
from dataclasses import asdict

import asyncpg
import msgspec

from mint_common.errors import AlreadyHandled
from mint_common.events import JobSpec, JobSubmitted
from mint_common.ids import JobId, PolicyId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.gateway.core.mint.submission import SubmittedJob

_COLUMNS = "job_id, policy_id, coalesce(policy, policy_id) AS policy, base, spec, submitted_at, warnings"

_LAST_TASK = """
    SELECT spec ->> 'task' FROM submissions WHERE tenant_id = $1 AND policy_id = $2
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
    """The gateway's schema; see `services.gateway.ports.jobs.Submissions`."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger, clock: Clock) -> None:
        self._pool = pool
        self._ledger = ledger
        self._clock = clock

    async def submit(
        self, event: JobSubmitted, *, cause: str, policy: str, warnings: Sequence[str]
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
        )
        try:
            async with self._ledger.transaction(cause) as transaction:
                await transaction.connection.execute(
                    "INSERT INTO submissions VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                    event.job_id,
                    event.tenant_id,
                    event.policy_id,
                    event.base,
                    asdict(event.spec),
                    submission.submitted_at,
                    policy,
                    list(warnings),
                )
                await transaction.emit(event)
        except AlreadyHandled:
            # The same request came twice at once and the other one has won.
            stored = await self.get(event.tenant_id, event.job_id)
            assert stored is not None, "a handled cause has a row"
            return stored
        return submission

    async def get(self, tenant_id: TenantId, job_id: JobId) -> SubmittedJob | None:
        """Return one submitted job of a tenant."""
        row = await self._pool.fetchrow(
            f"SELECT {_COLUMNS} FROM submissions WHERE tenant_id = $1 AND job_id = $2",  # noqa: S608  (a constant)
            tenant_id,
            job_id,
        )
        return None if row is None else _submission(row)

    async def last_task(self, tenant_id: TenantId, policy_id: PolicyId) -> str | None:
        """Return the task of a policy's newest job."""
        found: str | None = await self._pool.fetchval(_LAST_TASK, tenant_id, policy_id)
        return found

    async def latest(
        self, tenant_id: TenantId, *, limit: int, also: Sequence[str] = ()
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's submitted jobs, newest first."""
        rows = await self._pool.fetch(_LATEST, tenant_id, limit, also)
        return [_submission(row) for row in rows]


def _submission(row: asyncpg.Record) -> SubmittedJob:
    return SubmittedJob(
        job_id=JobId(row["job_id"]),
        policy_id=PolicyId(row["policy_id"]),
        policy=row["policy"],
        base=row["base"],
        spec=msgspec.convert(row["spec"], JobSpec),
        submitted_at=row["submitted_at"],
        warnings=tuple(row["warnings"]),
    )
