"""What the tests of this folder do with the servers of tests/conftest.py."""

import asyncio

import asyncpg

from mint_common.errors import Unavailable
from mint_common.runtime.postgres import migrate, open_pool, translating_errors
from tests.own_servers import RunningServer

PACKAGE = "mint_common.runtime.migrations"


async def make_pool(dsn: str) -> asyncpg.Pool:
    """Open a pool on a schema with the ledger's tables."""
    pool = await open_pool(dsn, schema="registry")
    await migrate(pool, schema="registry", package=PACKAGE)
    return pool


async def restart_postgres(server: RunningServer) -> None:
    """Start a killed server, again and again while its orphans still hold the shared memory."""
    async with asyncio.timeout(30):
        while not await _has_started(server):
            await asyncio.sleep(0.2)


async def _has_started(server: RunningServer) -> bool:
    try:
        await asyncio.to_thread(server.start)
    except RuntimeError:
        return False
    assert server.process is not None
    while server.process.poll() is None:
        try:
            with translating_errors():
                connection = await asyncpg.connect(server.address)
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return True
    return False
