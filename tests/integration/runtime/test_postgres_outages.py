"""Pool, ledger and dispatch when Postgres dies with kill -9 and comes back."""

import asyncio
from dataclasses import replace

import pytest

from mint_common.errors import SettingInvalid, Unavailable
from mint_common.events import RevisionExported
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher, publish_event
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import migrate, open_pool, translating_errors
from tests.integration.runtime.servers import PACKAGE, make_pool, restart_postgres
from tests.own_servers import RunningServer
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import EXAMPLES

pytestmark = pytest.mark.integration
CLOCK = SystemClock()


async def test_a_pool_outlives_its_server(own_postgres: RunningServer) -> None:
    pool = await make_pool(own_postgres.address)
    ledger = PostgresLedger(pool, CLOCK)
    own_postgres.kill()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await pool.fetchval("SELECT 1")
        with pytest.raises(Unavailable):
            await ledger.is_known("cause")
        with pytest.raises(Unavailable):
            async with ledger.transaction("cause"):
                pass
        with pytest.raises(Unavailable), translating_errors():
            async with pool.acquire():
                pass
    await restart_postgres(own_postgres)
    async with ledger.transaction("cause") as transaction:
        await transaction.emit(EXAMPLES["alias.moved"])
    assert await ledger.is_known("cause")
    await pool.close()


async def test_a_transaction_that_loses_its_server_is_unavailable_and_leaves_nothing(
    own_postgres: RunningServer,
) -> None:
    pool = await make_pool(own_postgres.address)
    ledger = PostgresLedger(pool, CLOCK)

    async def lose_the_server() -> None:
        async with ledger.transaction("cause") as transaction:
            await transaction.emit(EXAMPLES["alias.moved"])
            own_postgres.kill()
            await transaction.connection.execute("SELECT 1")

    with pytest.raises(Unavailable):
        await lose_the_server()
    await restart_postgres(own_postgres)
    assert not await ledger.is_known("cause")
    await pool.close()


async def test_a_commit_that_loses_its_server_is_unavailable(own_postgres: RunningServer) -> None:
    pool = await make_pool(own_postgres.address)
    with pytest.raises(Unavailable):
        async with PostgresLedger(pool, CLOCK).transaction("cause"):
            own_postgres.kill()
    await restart_postgres(own_postgres)
    await pool.close()


async def test_a_pool_waits_for_a_server_that_is_starting(own_postgres: RunningServer) -> None:
    own_postgres.kill()
    opening = asyncio.create_task(open_pool(own_postgres.address, schema="registry"))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(own_postgres.start)
    pool = await opening
    assert await pool.fetchval("SELECT 1") == 1
    await pool.close()


async def test_handlers_wait_for_a_killed_server_and_commit_once(own_postgres: RunningServer) -> None:
    bus = MemoryBus(CLOCK)
    pool = await make_pool(own_postgres.address)
    await pool.execute("CREATE TABLE marks (export_id text)")
    ledger = PostgresLedger(pool, CLOCK)
    exported = EXAMPLES["revision.exported"]

    async def on_exported(event: RevisionExported) -> tuple[()]:
        async with ledger.transaction(event.id) as transaction:
            await transaction.connection.execute("INSERT INTO marks VALUES ($1)", event.export_id)
        return ()

    dispatcher = Dispatcher(bus=bus, ledger=ledger, durable="registry", clock=CLOCK, max_attempts=2)
    dispatcher.on(RevisionExported, on_exported)
    running = asyncio.create_task(dispatcher.run())
    try:
        for number in range(60):
            event = replace(exported, export_id=f"e{number}")
            await publish_event(bus, event, cause="test", now=CLOCK.now())
            await asyncio.sleep(0.01)
            if number in (10, 30):
                own_postgres.kill()
            if number in (20, 40):
                await restart_postgres(own_postgres)
        async with asyncio.timeout(30):
            while await pool.fetchval("SELECT count(*) FROM marks") < 60:
                await asyncio.sleep(0.1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await pool.fetchval("SELECT count(DISTINCT export_id) FROM marks") == 60
    assert await pool.fetchval("SELECT count(*) FROM marks") == 60
    assert not any(message.subject.startswith("mint.dead") for message in bus.messages)
    await pool.close()


async def test_a_changed_migration_is_refused(database: str) -> None:
    pool = await make_pool(database)
    await pool.execute("UPDATE mint_migrations SET sha256 = 'of another text'")
    with pytest.raises(SettingInvalid):
        await migrate(pool, schema="registry", package=PACKAGE)
    await pool.close()


async def test_a_file_error_inside_a_transaction_is_no_outage(database: str) -> None:
    pool = await make_pool(database)
    with pytest.raises(FileNotFoundError):
        async with PostgresLedger(pool, CLOCK).transaction("cause"):
            raise FileNotFoundError
    await pool.close()


async def test_jsonb_comes_and_goes_as_python_values(database: str) -> None:
    pool = await open_pool(database, schema="registry")
    value = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value
    await pool.close()
