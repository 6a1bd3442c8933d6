"""The catalog in memory and in Postgres, for its contract suites."""

from collections.abc import AsyncIterator

import pytest
from contract.catalog_rig import Store, fill, memory_store, postgres_store

from mint_common.runtime.postgres import migrate, open_pool


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def dsn(request: pytest.FixtureRequest) -> str | None:
    """The address of an empty database, None for the store in memory."""
    return None if request.param == "memory" else request.getfixturevalue("database")


@pytest.fixture
async def store(dsn: str | None) -> AsyncIterator[Store]:
    if dsn is None:
        made = memory_store()
        await fill(made)
        yield made
        return
    pool = await open_pool(dsn, schema="registry")
    await migrate(pool, schema="registry", package="services.registry.adapters.migrations")
    made = postgres_store(pool)
    await fill(made)
    yield made
    await pool.close()
