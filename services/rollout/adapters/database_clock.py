"""The database's time, by which no process takes for stalled what another one claims."""

import time

import asyncpg

from mint_common.runtime.clock import SystemClock

FOLLOW_SECONDS = 10.0
"""Interval between readings: the monotonic clock of a machine that sleeps stands still."""
WIDEST_SECONDS = 1.0
"""An answer that took longer is not taken: it may be off by half of that."""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"


class DatabaseClock(SystemClock):
    """The time of a database, carried on by the monotonic clock of this machine."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._ahead = time.time() - time.monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._ahead + time.monotonic()

    async def follow(self) -> None:
        """Take the database's time. Raises Unavailable."""
        began = time.monotonic()
        now = await self._pool.fetchval(_NOW)
        ended = time.monotonic()
        if ended - began <= WIDEST_SECONDS:
            self._ahead = now - (began + ended) / 2
