"""Ledger, relay, NATS and dispatch together, with servers killed and the dispatcher cut off in the middle."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.errors import Unavailable
from mint_common.events import AliasMoved, RevisionExported, RevisionPublished
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher, publish_event
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.relay import OutboxRelay
from tests.integration.runtime.servers import make_pool, restart_postgres
from tests.own_servers import RunningServer
from tests.testing.factories import EXAMPLES

pytestmark = pytest.mark.integration
CLOCK = SystemClock()
COUNT = 60


def dispatcher_of(bus: NatsBus, pool: asyncpg.Pool) -> Dispatcher:
    """Each export leads to a row and a publication, and each publication to a row."""
    ledger = PostgresLedger(pool, CLOCK)

    async def on_exported(event: RevisionExported) -> tuple[()]:
        async with ledger.transaction(event.id) as transaction:
            await transaction.connection.execute("INSERT INTO exported VALUES ($1)", event.export_id)
            await transaction.emit(replace(EXAMPLES["revision.published"], export_id=event.export_id))
        return ()

    async def on_published(event: RevisionPublished) -> list[AliasMoved]:
        async with ledger.transaction(event.id) as transaction:
            await transaction.connection.execute("INSERT INTO published VALUES ($1)", event.export_id)
        return [replace(EXAMPLES["alias.moved"], alias=event.export_id)]

    dispatcher = Dispatcher(
        bus=bus, ledger=ledger, durable="registry", clock=CLOCK, ack_wait_seconds=1.0, drain_seconds=0.0
    )
    dispatcher.on(RevisionExported, on_exported)
    dispatcher.on(RevisionPublished, on_published)
    return dispatcher


async def test_every_export_leads_to_its_rows_once(
    own_nats: RunningServer, own_postgres: RunningServer
) -> None:
    pool = await make_pool(own_postgres.address)
    await pool.execute("CREATE TABLE exported (export_id text); CREATE TABLE published (export_id text)")
    bus = await connect_nats(own_nats.address, name="chain")
    relay = asyncio.create_task(OutboxRelay(pool, bus, CLOCK).run())
    running = asyncio.create_task(dispatcher_of(bus, pool).run())
    for number in range(COUNT):
        event = replace(EXAMPLES["revision.exported"], export_id=f"e{number}")
        await publish_event(bus, event, cause="test", now=CLOCK.now())
        if number % 20 == 5:
            own_nats.kill()
            await asyncio.to_thread(own_nats.start)
        if number % 20 == 10:
            own_postgres.kill()
            await restart_postgres(own_postgres)
        if number % 20 == 15:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            running = asyncio.create_task(dispatcher_of(bus, pool).run())
    async with asyncio.timeout(60):
        while await _count(pool, "published") < COUNT:
            await asyncio.sleep(0.1)
    for task in (relay, running):
        task.cancel()
    await asyncio.gather(relay, running, return_exceptions=True)
    for table in ("exported", "published"):
        rows = await pool.fetch(f"SELECT export_id FROM {table}")
        assert sorted(row["export_id"] for row in rows) == sorted(f"e{number}" for number in range(COUNT))
    jetstream = await bus._connection.jetstream()
    subjects = (await jetstream.stream_info("MINT", subjects_filter="mint.dead.>")).state.subjects
    assert not subjects
    await bus.close()
    await pool.close()


async def _count(pool: asyncpg.Pool, table: str) -> int:
    try:
        return int(await pool.fetchval(f"SELECT count(*) FROM {table}"))
    except Unavailable:
        return 0
