"""The outbox relay with a real Postgres and a real NATS, killed in the middle."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest
from prometheus_client import REGISTRY

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Bus, Message
from mint_common.errors import AlreadyHandled, EventInvalid, Unavailable
from mint_common.events import Event
from mint_common.events.codec import decode
from mint_common.runtime import periodic, relay
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.relay import OutboxRelay
from tests.integration.runtime.servers import make_pool, restart_postgres
from tests.own_servers import RunningServer
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import EXAMPLES

pytestmark = pytest.mark.integration
CLOCK = SystemClock()
WAITING = "SELECT count(*) FROM mint_outbox WHERE published_at IS NULL"


def moved(number: int) -> Event:
    return replace(EXAMPLES["alias.moved"], sequence=number)


@asynccontextmanager
async def relaying(pool: asyncpg.Pool, bus: Bus) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(OutboxRelay(pool, bus, CLOCK).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def commit(ledger: PostgresLedger, number: int) -> None:
    """Commit one event, whatever it takes: a lost answer to the commit is settled by asking again."""
    while True:
        try:
            async with ledger.transaction(f"cause-{number}") as transaction:
                await transaction.emit(moved(number))
        except AlreadyHandled:
            return
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def numbers_heard(bus: NatsBus, until: int) -> list[int]:
    """Read a durable subscription until every number has come; return the first comings in order."""
    heard: list[int] = []
    async with asyncio.timeout(60), bus.subscribe(durable="d", subjects=["mint.>"]) as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            number = decode(delivery.message.data)[1].sequence
            if number not in heard:
                heard.append(number)
            if len(heard) == until:
                return heard
    raise AssertionError


async def test_every_committed_event_arrives_in_order_through_kills_of_both_servers(
    own_nats: RunningServer, own_postgres: RunningServer
) -> None:
    pool = await make_pool(own_postgres.address)
    ledger = PostgresLedger(pool, CLOCK)
    bus = await connect_nats(own_nats.address, name="relay")
    listening = asyncio.create_task(numbers_heard(bus, 120))
    async with relaying(pool, bus) as task:
        for number in range(120):
            await commit(ledger, number)
            if number in (20, 70):
                own_nats.kill()
                await asyncio.to_thread(own_nats.start)
            if number in (45, 71):
                own_postgres.kill()
                await restart_postgres(own_postgres)
        assert await listening == list(range(120))
        assert not task.done()
        async with asyncio.timeout(10):
            while await pool.fetchval(WAITING):
                await asyncio.sleep(0.05)
    await bus.close()
    await pool.close()


async def test_repeating_brings_back_what_a_wiped_bus_lost(own_nats: RunningServer, database: str) -> None:
    pool = await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    bus = await connect_nats(own_nats.address, name="relay")
    async with relaying(pool, bus):
        for number in range(5):
            await commit(ledger, number)
        while await pool.fetchval(WAITING):
            await asyncio.sleep(0.02)
        own_nats.kill()
        shutil.rmtree(own_nats.launch.folder / "jetstream")
        await asyncio.to_thread(own_nats.start)
        for number in range(5):
            await ledger.repeat(f"cause-{number}")
        assert sorted(await numbers_heard(bus, 5)) == list(range(5))
    await bus.close()
    await pool.close()


async def test_a_commit_wakes_the_relay_before_its_poll(database: str) -> None:
    pool = await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    bus = MemoryBus(CLOCK)
    async with relaying(pool, bus), bus.watch(subjects=["mint.>"]) as heard:
        await asyncio.sleep(0.3)
        waits = []
        for number in range(10):
            await commit(ledger, number)
            started = CLOCK.monotonic()
            await anext(heard)
            waits.append(CLOCK.monotonic() - started)
        assert sorted(waits)[len(waits) // 2] < 0.5
    await pool.close()


async def test_one_relay_publishes_at_a_time_and_another_takes_over(database: str) -> None:
    pool, other_pool = await make_pool(database), await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    first, second = MemoryBus(CLOCK), MemoryBus(CLOCK)
    async with relaying(other_pool, second):
        await asyncio.sleep(0.3)
        async with relaying(pool, first):
            for number in range(5):
                await commit(ledger, number)
            while await pool.fetchval(WAITING):
                await asyncio.sleep(0.02)
            assert (len(first.messages), len(second.messages)) == (0, 5)
    async with relaying(pool, first), asyncio.timeout(10):
        await commit(ledger, 5)
        while not first.messages:
            await asyncio.sleep(0.02)
    await pool.close()
    await other_pool.close()


class AwayBus(MemoryBus):
    """A bus that does not answer until it is back."""

    is_back = False

    async def publish(self, message: Message) -> None:
        if not self.is_back:
            raise Unavailable(what="the bus", problem="away")
        await super().publish(message)


async def test_what_waits_is_measured_also_by_a_relay_that_stands_by(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MEASURE_SECONDS", 0.0)
    pool, other_pool = await make_pool(database), await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    bus = AwayBus(CLOCK)
    for number in range(3):
        await commit(ledger, number)
    await pool.execute("UPDATE mint_outbox SET due_at = now() - interval '90 seconds' WHERE id = 2")
    async with relaying(other_pool, bus), relaying(pool, bus), asyncio.timeout(30):
        await until_measured(pending=3, oldest=lambda seconds: 90 <= seconds < 120)
        bus.is_back = True
        await until_measured(pending=0, oldest=lambda seconds: seconds == 0)
        bus.is_back = False
        await ledger.repeat("cause-1")
        await until_measured(pending=1, oldest=lambda seconds: 0 <= seconds < 30)
    await pool.close()
    await other_pool.close()


async def until_measured(*, pending: int, oldest: Callable[[float], bool]) -> None:
    def measured(name: str) -> float:
        value = REGISTRY.get_sample_value(name)
        assert value is not None
        return value

    while measured("mint_relay_pending") != pending or not oldest(measured("mint_relay_oldest_seconds")):
        await asyncio.sleep(0.02)


class RefusingBus(MemoryBus):
    """A bus that never takes one subject."""

    async def publish(self, message: Message) -> None:
        if decode(message.data)[1].sequence == 1:
            raise EventInvalid(type=message.subject, problem="too large for the bus")
        await super().publish(message)


async def test_a_refused_event_is_marked_and_does_not_hold_up_the_others(database: str) -> None:
    pool = await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    bus = RefusingBus(CLOCK)
    for number in range(3):
        await commit(ledger, number)
    async with relaying(pool, bus), asyncio.timeout(10):
        while await pool.fetchval(WAITING):
            await asyncio.sleep(0.02)
    assert [decode(each.data)[1].sequence for each in bus.messages] == [0, 2]
    assert "too large" in await pool.fetchval("SELECT refusal FROM mint_outbox WHERE refusal IS NOT NULL")
    await pool.close()


async def test_published_rows_are_pruned_after_a_week(database: str) -> None:
    pool = await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    for number in range(2):
        await commit(ledger, number)
    await pool.execute(
        "UPDATE mint_outbox SET published_at = now() - interval '8 days' WHERE cause = 'cause-0'"
    )
    async with relaying(pool, MemoryBus(CLOCK)), asyncio.timeout(10):
        while await pool.fetchval("SELECT count(*) FROM mint_outbox") > 1:
            await asyncio.sleep(0.02)
    assert await ledger.is_known("cause-0")
    assert await pool.fetchval("SELECT cause FROM mint_outbox") == "cause-1"
    await pool.close()


async def test_old_causes_are_forgotten_once_their_events_are(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic.prune_rows, "__kwdefaults__", {"at_once": 2})  # it takes several parts
    pool = await make_pool(database)
    ledger = PostgresLedger(pool, CLOCK)
    for number in range(8):
        await commit(ledger, number)
    # All but the last are past the age; the events of 0 to 5 are old as well, those of 6 still go out.
    await pool.execute(
        "UPDATE mint_inbox SET committed_at = now() - interval '31 days' WHERE cause <> 'cause-7'"
    )
    await pool.execute(
        "UPDATE mint_outbox SET published_at = now() - interval '8 days' WHERE cause < 'cause-6'"
    )
    async with relaying(pool, MemoryBus(CLOCK)), asyncio.timeout(10):
        while await pool.fetchval("SELECT count(*) FROM mint_inbox") > 2:
            await asyncio.sleep(0.02)
    assert not await ledger.is_known("cause-5")
    assert await ledger.is_known("cause-6")
    assert await ledger.is_known("cause-7")
    kept = await pool.fetch("SELECT data FROM mint_outbox ORDER BY id")
    assert [decode(row["data"])[1] for row in kept] == [moved(6), moved(7)]
    await pool.close()


MANY_OLD = """
    INSERT INTO mint_outbox (cause, event_id, subject, data, headers, published_at)
    SELECT 'old-' || i, 'old-' || i, 'mint.x', decode(repeat('ab', 600), 'hex'), '{}',
        now() - interval '8 days' FROM generate_series(1, 300000) i
"""


async def test_a_mountain_of_old_rows_goes_in_parts_while_events_are_published(database: str) -> None:
    pool, bus = await make_pool(database), MemoryBus(CLOCK)
    await pool.execute(MANY_OLD)
    ledger = PostgresLedger(pool, CLOCK)
    await pool.execute(
        "INSERT INTO mint_answers VALUES ('a', '1', now() - interval '3 days'), ('b', '2', now())"
    )
    async with relaying(pool, bus), asyncio.timeout(60):
        longest, number = 0.0, 0
        while await pool.fetchval("SELECT EXISTS (SELECT FROM mint_outbox WHERE cause LIKE 'old%')"):
            began = CLOCK.monotonic()
            await commit(ledger, number)
            number += 1
            while len(bus.messages) < number:
                await asyncio.sleep(0.005)
            longest = max(longest, CLOCK.monotonic() - began)
        assert number > 3, "events go out meanwhile"
        assert longest < 5
        while await pool.fetchval("SELECT count(*) FROM mint_answers") > 1:
            await asyncio.sleep(0.02)
    await pool.close()
