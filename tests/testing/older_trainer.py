"""What a trainer of the version before pools does with the lease of its base."""

import asyncio

import asyncpg

from mint_common.ids import BaseName

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('mint_trainer_' || $1::text || '_' || $2::text, 0))"
_TAKE = """
    INSERT INTO leases (base, token) VALUES ($1, $2)
    ON CONFLICT (base) DO UPDATE SET token = $2, renewed_at = now() WHERE leases.token = $2 - 1
    RETURNING token
"""
_RENEW = "UPDATE leases SET renewed_at = now() WHERE base = $1 AND token = $2 RETURNING token"


async def hold_as_before(
    pool: asyncpg.Pool, base: BaseName, *, held: "asyncio.Queue[int] | None" = None
) -> None:
    """Wait for the lease, put its token into the queue, and hold it until cancelled."""
    async with pool.acquire() as connection:
        try:
            while (token := await _take(connection, base)) is None:
                await asyncio.sleep(0.05)
            if held is not None:
                held.put_nowait(token)
            while await pool.fetchval(_RENEW, base, token):
                await asyncio.sleep(0.2)
        finally:
            connection.terminate()


async def _take(connection: asyncpg.Connection, base: BaseName) -> int | None:
    token = await connection.fetchval("SELECT token FROM leases WHERE base = $1", base) or 0
    if token and not await connection.fetchval(_LOCK, base, str(token)):
        return None
    if not await connection.fetchval(_LOCK, base, str(token + 1)):
        return None
    taken: int | None = await connection.fetchval(_TAKE, base, token + 1)
    return taken
