"""Which process has the episodes of a wave that agents run, in the Postgres schema `rollout`."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import JobId, WaveId
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres_errors import acquired
from services.rollout.core.agents import AgentWave

RENEW_SECONDS = 5.0
LOST_SECONDS = 30.0
"""Age of a row whose process has ended or is unreachable."""

_PUT = """
    INSERT INTO agent_waves (wave_id, job_id, url, waits_for, seen_at)
    SELECT wave_id, job_id, $4, waits_for, $5
    FROM unnest($1::text[], $2::text[], $3::text[]) AS wave (wave_id, job_id, waits_for)
    ON CONFLICT (wave_id) DO UPDATE
    SET url = excluded.url, waits_for = excluded.waits_for, seen_at = excluded.seen_at
"""
_REMOVE = """
    DELETE FROM agent_waves WHERE (url = $1 AND NOT wave_id = ANY ($2)) OR seen_at < $3
"""


class PostgresAgentWaves:
    """The waves of all processes. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock, *, url: str) -> None:
        """``url`` is the address of this process."""
        self._pool = pool
        self._clock = clock
        self.url = url

    async def put(self, waves: Sequence[AgentWave]) -> None:
        """Say that these waves are here."""
        columns = zip(*((wave.wave_id, wave.job_id, wave.waits_for) for wave in waves), strict=True)
        if waves:
            async with acquired(self._pool) as connection:
                await connection.execute(_PUT, *map(list, columns), self.url, self._clock.now())

    async def set_all(self, waves: Sequence[AgentWave]) -> None:
        """Say that these waves are here and no others; forget those of processes that have ended."""
        await self.put(waves)
        known, before = [wave.wave_id for wave in waves], self._clock.now() - LOST_SECONDS
        async with acquired(self._pool) as connection:
            await connection.execute(_REMOVE, self.url, known, before)

    async def urls_of_job(self, job_id: JobId) -> list[str]:
        """Return the addresses of the processes with waves of a job."""
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT DISTINCT url FROM agent_waves WHERE job_id = $1 AND seen_at > $2 ORDER BY url",
                job_id,
                self._clock.now() - LOST_SECONDS,
            )
        return [row["url"] for row in rows]

    async def url_of_wave(self, wave_id: WaveId) -> str | None:
        """Return the address of the process with a wave, None if none has it."""
        async with acquired(self._pool) as connection:
            url: str | None = await connection.fetchval(
                "SELECT url FROM agent_waves WHERE wave_id = $1 AND seen_at > $2",
                wave_id,
                self._clock.now() - LOST_SECONDS,
            )
        return url
