"""Sessions and training runs of Tinker clients in Postgres."""

from collections import OrderedDict
from collections.abc import Sequence

import asyncpg

from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.quotas import check_quota
from mint_common.runtime.periodic import prune_rows
from mint_common.runtime.postgres import from_row, insert_of, values_of
from services.gateway.core.tinker.records import ClientSession, FinishReason, TrainingRun

TENANT_SESSIONS = 100_000
"""Maximum sessions per tenant. Sessions without runs are deleted after a month of silence."""
RUNS = 10_000
"""Maximum training runs in memory, so that their operations need no query."""

_ADD_SESSION = insert_of("tinker_sessions", ClientSession) + " ON CONFLICT DO NOTHING"
_ADD_RUN = insert_of("tinker_runs", TrainingRun) + " ON CONFLICT DO NOTHING"
_COUNT = """
    SELECT count(*) FROM (
        SELECT FROM tinker_sessions WHERE tenant_id = $1 AND session_id <> $3 LIMIT $2
    ) AS counted
"""
_FINISH = """
    UPDATE tinker_sessions SET finish = $2, finish_detail = $3 WHERE session_id = $1 AND finish IS NULL
"""
_OLD_SESSION = """
    seen_at < $1
    AND NOT EXISTS (SELECT FROM tinker_runs WHERE tinker_runs.session_id = tinker_sessions.session_id)
    AND NOT EXISTS (
        SELECT FROM tinker_sampling_sessions sampler WHERE sampler.session_id = tinker_sessions.session_id
    )
"""
_NEWEST = "ORDER BY created_at DESC, {key} DESC"
_SESSIONS = f"""
    SELECT * FROM tinker_sessions
    WHERE tenant_id = $1 AND ($2::float8 IS NULL OR (created_at, session_id) < ($2, $3))
    {_NEWEST.format(key="session_id")} LIMIT $4 OFFSET $5
"""  # noqa: S608  (constants)
_OF_TENANT = """
    tenant_id = $1 AND ($2::text IS NULL OR session_id IN
        (SELECT session_id FROM tinker_sessions WHERE tenant_id = $1 AND project_id = $2))
"""
_RUNS = f"""
    SELECT * FROM tinker_runs WHERE {_OF_TENANT} {_NEWEST.format(key="model_id")} LIMIT $3 OFFSET $4
"""  # noqa: S608  (constants)


class PostgresTinkerRuns:
    """Sessions and their training runs. Lists are newest first, except the runs of one session."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known: OrderedDict[str, TrainingRun] = OrderedDict()

    async def add_session(self, session: ClientSession) -> None:
        """Store a session, unless its id exists. Raises QuotaExceeded."""
        count = await self._pool.fetchval(_COUNT, session.tenant_id, TENANT_SESSIONS, session.session_id)
        check_quota(
            count,
            limit=TENANT_SESSIONS,
            what="Tinker sessions",
            remedy="sessions without runs are deleted in time",
        )
        await self._pool.execute(_ADD_SESSION, *values_of(session))

    async def count_sessions(self, tenant_id: TenantId) -> int:
        """Return the number of a tenant's sessions, at most `TENANT_SESSIONS`."""
        return int(await self._pool.fetchval(_COUNT, tenant_id, TENANT_SESSIONS, ""))

    async def session(self, session_id: str) -> ClientSession | None:
        """Return a session of any tenant."""
        row = await self._pool.fetchrow("SELECT * FROM tinker_sessions WHERE session_id = $1", session_id)
        return None if row is None else from_row(row, ClientSession)

    async def see_session(self, session_id: str, *, now: float) -> None:
        """Record that its client is alive."""
        await self._pool.execute(
            "UPDATE tinker_sessions SET seen_at = $2 WHERE session_id = $1", session_id, now
        )

    async def finish_session(self, session_id: str, reason: FinishReason, detail: str | None) -> None:
        """Record how it ended; only the first call counts."""
        await self._pool.execute(_FINISH, session_id, reason, detail)

    async def set_project(self, session_id: str, project_id: str) -> None:
        """Move a session to a project."""
        await self._pool.execute(
            "UPDATE tinker_sessions SET project_id = $2 WHERE session_id = $1", session_id, project_id
        )

    async def sessions(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, before: tuple[float, str] | None = None
    ) -> Sequence[ClientSession]:
        """Return a tenant's sessions; ``before`` is the time and id of the last one of the page before."""
        at, last = before or (None, None)
        rows = await self._pool.fetch(_SESSIONS, tenant_id, at, last, limit, offset)
        return [from_row(row, ClientSession) for row in rows]

    async def add_run(self, run: TrainingRun) -> TrainingRun:
        """Store a training run, or return the one that has this id."""
        await self._pool.execute(_ADD_RUN, *values_of(run))
        stored = await self.run(run.model_id)
        assert stored is not None, "it was inserted just now, or before"
        return stored

    async def run(self, model_id: str) -> TrainingRun | None:
        """Return a training run of any tenant."""
        return await self._one("model_id", model_id)

    async def run_of_policy(self, policy_id: str) -> TrainingRun | None:
        """Return the training run of a policy."""
        return await self._one("policy_id", policy_id)

    async def remove_run(self, policy_id: PolicyId) -> None:
        """Remove the training run of a policy that is removed."""
        await self._pool.execute("DELETE FROM tinker_runs WHERE policy_id = $1", policy_id)
        self._known.clear()

    async def runs(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, project_id: str | None = None
    ) -> tuple[Sequence[TrainingRun], int]:
        """Return a page of a tenant's runs and their total number."""
        rows = await self._pool.fetch(_RUNS, tenant_id, project_id, limit, offset)
        count = f"SELECT count(*) FROM tinker_runs WHERE {_OF_TENANT}"  # noqa: S608  (a constant)
        total = await self._pool.fetchval(count, tenant_id, project_id)
        return [from_row(row, TrainingRun) for row in rows], total

    async def runs_of_sessions(self, session_ids: Sequence[str]) -> Sequence[TrainingRun]:
        """Return the runs of sessions, oldest first."""
        query = "SELECT * FROM tinker_runs WHERE session_id = ANY($1) ORDER BY created_at, model_id"
        return [from_row(row, TrainingRun) for row in await self._pool.fetch(query, session_ids)]

    async def bases(self, tenant_id: TenantId) -> Sequence[BaseName]:
        """Return the bases that a tenant has runs over, by name."""
        rows = await self._pool.fetch(
            "SELECT DISTINCT base FROM tinker_runs WHERE tenant_id = $1 ORDER BY base", tenant_id
        )
        return [BaseName(row["base"]) for row in rows]

    async def all_bases(self) -> Sequence[BaseName]:
        """Return the bases that any tenant has runs over."""
        rows = await self._pool.fetch("SELECT DISTINCT base FROM tinker_runs ORDER BY base")
        return [BaseName(row["base"]) for row in rows]

    async def prune(self, *, before: float) -> None:
        """Delete sessions without runs and samplers that have been silent since a time."""
        await prune_rows(self._pool, "tinker_sessions", _OLD_SESSION, before)

    async def _one(self, column: str, value: str) -> TrainingRun | None:
        known = self._known.get(value)  # its row never changes
        if known is not None:
            self._known.move_to_end(value)
            return known
        query = f"SELECT * FROM tinker_runs WHERE {column} = $1"  # noqa: S608  (constants)
        row = await self._pool.fetchrow(query, value)
        if row is None:
            return None
        self._known[value] = found = from_row(row, TrainingRun)
        while len(self._known) > RUNS:
            self._known.popitem(last=False)
        return found
