"""Empty schemas of the services in one database, so that a test pays for no database and no migration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from mint_common.runtime.postgres import migrate, open_pool

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename <> 'mint_migrations'"


@asynccontextmanager
async def empty_schema(dsn: str, service: str) -> AsyncIterator[asyncpg.Pool]:
    """Open the schema of a service, migrated, without the rows of earlier tests."""
    pool = await open_pool(dsn, schema=service)
    try:
        await migrate(pool, schema=service, package=f"services.{service}.adapters.migrations")
        async with pool.acquire() as connection, connection.transaction():
            # Much quicker than TRUNCATE. The role is what lets rows go in any order.
            await connection.execute("SET LOCAL session_replication_role = replica")
            for row in await connection.fetch(_TABLES, service):
                await connection.execute(f'DELETE FROM "{row["tablename"]}"')
        yield pool
    finally:
        await pool.close()
