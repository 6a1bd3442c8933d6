"""The lease of a base in Postgres: a token in a row, and an advisory lock on base and token.

The lock shows at once that the holder's process has ended; a frozen one keeps it, but stops renewing
the row. A new holder increases the token, which fences the previous one.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from mint_common.ids import BaseName
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from services.trainer.core.operations import Fenced

POLL_SECONDS = 0.2

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('mint_trainer_' || $1::text || '_' || $2::text, 0))"
_STATE = """
    SELECT token, renewed_at < now() - make_interval(secs => $2) AS is_stale FROM leases WHERE base = $1
"""
_TAKE = """
    INSERT INTO leases (base, token) VALUES ($1, $2)
    ON CONFLICT (base) DO UPDATE SET token = $2, renewed_at = now() WHERE leases.token = $2 - 1
    RETURNING token
"""
_RENEW = "UPDATE leases SET renewed_at = now() WHERE base = $1 AND token = $2 RETURNING token"


class PostgresLease:
    """The right to commit results of a base's operations; one process has it at a time."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", *, base: BaseName, ttl_seconds: float, clock: Clock
    ) -> None:
        self._pool = pool
        self._base = base
        self._ttl_seconds = ttl_seconds
        self._clock = clock

    @asynccontextmanager
    async def held(self) -> AsyncIterator[int]:
        """Wait for the lease and hold it; yields the token, which a commit proves it by.

        The lease of a process that is gone is free at once, that of one that only seems dead after a while.
        """
        async with acquired(self._pool) as connection:
            try:
                while (token := await self._take(connection)) is None:
                    await self._clock.sleep(POLL_SECONDS)
                yield token
            finally:
                # Its locks go with it, whatever state it is in.
                with suppress(asyncpg.InterfaceError):
                    connection.terminate()

    async def renew(self, token: int) -> None:
        """Say that this process is alive. Raises Fenced when another has taken over, Unavailable."""
        if await self._pool.fetchval(_RENEW, self._base, token) is None:
            raise Fenced(base=self._base)

    async def _take(self, connection: PostgresConnection) -> int | None:
        row = await connection.fetchrow(_STATE, self._base, self._ttl_seconds)
        token = 0 if row is None else int(row["token"])
        # The lock of the next token first: of several that take over, one goes on.
        is_free = row is None or row["is_stale"] or await connection.fetchval(_LOCK, self._base, str(token))
        if not is_free or not await connection.fetchval(_LOCK, self._base, str(token + 1)):
            return None
        taken: int | None = await connection.fetchval(_TAKE, self._base, token + 1)
        return taken
