"""The ledger contract, in memory and in a real Postgres."""

import asyncio
from importlib import resources

import asyncpg
import pytest

from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.testing.bus_memory import MemoryBus
from mint_common.testing.ledger_contract import LEDGER_CONTRACT, Check, LedgerUnderTest
from mint_common.testing.ledger_memory import MemoryLedger, MemoryRelay

CLOCK = SystemClock()
PACKAGE = "mint_common.runtime.migrations"


async def _make_pool(dsn: str, *, schema: str) -> asyncpg.Pool:
    pool = await open_pool(dsn, schema=schema)
    await migrate(pool, schema=schema, package=PACKAGE)
    return pool


@pytest.mark.parametrize("check", LEDGER_CONTRACT, ids=lambda check: check.__name__)
async def test_memory(check: Check) -> None:
    bus = MemoryBus(CLOCK)
    ledger = MemoryLedger()
    flush = MemoryRelay(ledger, bus, CLOCK).publish_pending
    await check(LedgerUnderTest(ledger=ledger, bus=bus, flush=flush))


@pytest.mark.integration
@pytest.mark.parametrize("check", LEDGER_CONTRACT, ids=lambda check: check.__name__)
async def test_postgres(check: Check, database: str) -> None:
    bus = MemoryBus(CLOCK)
    pool = await _make_pool(database, schema="registry")

    async def flush() -> None:
        # Only now: what a check commits waits until it asks for it.
        relay = asyncio.create_task(OutboxRelay(pool, bus, CLOCK).run())
        async with asyncio.timeout(10):
            while await pool.fetchval("SELECT count(*) FROM mint_outbox WHERE published_at IS NULL"):
                await asyncio.sleep(0.01)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)

    try:
        await check(LedgerUnderTest(ledger=PostgresLedger(pool, CLOCK), bus=bus, flush=flush))
    finally:
        await pool.close()


@pytest.mark.integration
async def test_migrations_run_once_and_by_one_at_a_time(database: str) -> None:
    pools: list[asyncpg.Pool] = [await open_pool(database, schema="loader") for _ in range(3)]
    await asyncio.gather(*(migrate(pool, schema="loader", package=PACKAGE) for pool in pools))
    files = [file for file in resources.files(PACKAGE).iterdir() if file.name.endswith(".sql")]
    assert await pools[0].fetchval("SELECT count(*) FROM loader.mint_migrations") == len(files)
    for pool in pools:
        await pool.close()
