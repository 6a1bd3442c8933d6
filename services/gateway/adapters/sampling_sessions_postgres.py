"""Sampling sessions of Tinker clients in Postgres."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict

import asyncpg

from mint_common.ids import Digest
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import prune_rows
from mint_common.runtime.postgres import from_row, insert_of, values_of
from services.gateway.core.tinker.sampling_sessions import KEPT_SECONDS, LIVE_SECONDS, SamplingOpening

REMEMBERED = 10_000
"""Maximum cached sessions; every sample reads its own."""

_ADD = (
    insert_of("tinker_sampling_sessions", SamplingOpening, "sampling_session_id") + " ON CONFLICT DO NOTHING"
)
_MOVE = """
    UPDATE tinker_sampling_sessions SET revision = $2
    WHERE model_id = $1 AND kind = 'inflight' AND (revision->>'number')::bigint < $3
"""
_GET = "SELECT * FROM tinker_sampling_sessions WHERE sampling_session_id = $1"
_OF_SESSION = "SELECT sampling_session_id FROM tinker_sampling_sessions WHERE session_id = $1 ORDER BY seq"
_LIVE = """
    SELECT DISTINCT revision->>'digest' AS digest FROM tinker_sampling_sessions
    JOIN tinker_sessions USING (session_id) WHERE revision IS NOT NULL AND finish IS NULL AND seen_at > $1
"""
_OLD = """
    session_id IN (SELECT session_id FROM tinker_sessions WHERE seen_at <= $1)
"""


class PostgresSamplingSessions:
    """Sampling sessions, each on one revision that stays servable while its client lives."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._snapshots: OrderedDict[str, SamplingOpening] = OrderedDict()

    async def open(self, opening: SamplingOpening) -> str:
        """Return the id of a session, made if it is not there. Idempotent by session and seq.

        An inflight session moves the run's older inflight sessions along.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_ADD, *values_of(opening), opening.sampling_session_id)
            if opening.kind == "inflight" and opening.revision is not None:
                number, revision = opening.revision.number, asdict(opening.revision)
                await connection.execute(_MOVE, opening.model_id, revision, number)
        return opening.sampling_session_id

    async def get(self, sampling_session_id: str) -> SamplingOpening | None:
        """Return a session of any tenant, with its current revision. A snapshot is asked for once."""
        known = self._snapshots.get(sampling_session_id)
        if known is not None:
            self._snapshots.move_to_end(sampling_session_id)
            return known
        row = await self._pool.fetchrow(_GET, sampling_session_id)
        if row is None:
            return None
        found = from_row(row, SamplingOpening)
        if found.kind == "snapshot":
            self._snapshots[sampling_session_id] = found
            if len(self._snapshots) > REMEMBERED:
                self._snapshots.popitem(last=False)
        return found

    async def of_session(self, session_id: str) -> Sequence[str]:
        """Return the ids of a session's sampling sessions, oldest first."""
        return [row["sampling_session_id"] for row in await self._pool.fetch(_OF_SESSION, session_id)]

    async def digests(self) -> set[Digest]:
        """Return the revisions of sampling sessions whose clients are alive."""
        rows = await self._pool.fetch(_LIVE, self._clock.now() - LIVE_SECONDS)
        return {Digest(row["digest"]) for row in rows}

    async def prune(self) -> None:
        """Delete the sampling sessions of clients that have been silent for long."""
        before = self._clock.now() - KEPT_SECONDS
        await prune_rows(self._pool, "tinker_sampling_sessions", _OLD, before)
