"""What every ledger must do with its relay: in memory and in a real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources

import asyncpg
import pytest

from mint_common.bus.port import Message
from mint_common.errors import AlreadyHandled
from mint_common.events import AliasMoved, Event
from mint_common.events.codec import decode
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.telemetry.tracing import extracted
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import EXAMPLES
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay

CLOCK = SystemClock()
PACKAGE = "mint_common.runtime.migrations"
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerUnderTest:
    """A ledger, the bus that its relay publishes to, and ``flush``: relay until nothing waits."""

    ledger: PostgresLedger
    bus: MemoryBus
    flush: Callable[[], Awaitable[None]]

    async def published(self) -> Sequence[Message]:
        """Return all that is on the bus once nothing waits."""
        await self.flush()
        return self.bus.messages


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
def dsn(request: pytest.FixtureRequest) -> str | None:
    """The address of an empty database; None for memory."""
    return request.getfixturevalue("database") if request.param == "postgres" else None


@pytest.fixture
async def under_test(dsn: str | None) -> AsyncIterator[LedgerUnderTest]:
    bus = MemoryBus(CLOCK)
    if dsn is None:
        memory = MemoryLedger()
        yield LedgerUnderTest(ledger=memory, bus=bus, flush=MemoryRelay(memory, bus, CLOCK).publish_pending)
        return
    pool = await open_pool(dsn, schema="registry")
    await migrate(pool, schema="registry", package=PACKAGE)

    async def flush() -> None:
        # Only now: what a test commits waits until it asks for it.
        relay = asyncio.create_task(OutboxRelay(pool, bus, CLOCK).run())
        async with asyncio.timeout(10):
            while await pool.fetchval("SELECT count(*) FROM mint_outbox WHERE published_at IS NULL"):
                await asyncio.sleep(0.01)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)

    yield LedgerUnderTest(ledger=PostgresLedger(pool, CLOCK), bus=bus, flush=flush)
    await pool.close()


class _Refused(Exception):
    pass


async def test_the_answer_of_a_request_is_committed_with_it(under_test: LedgerUnderTest) -> None:
    ledger = under_test.ledger
    with suppress(_Refused):
        async with ledger.request("req_1") as transaction:
            await transaction.answer({"number": 1})
            raise _Refused
    assert await ledger.first_answer("req_1") is None
    async with ledger.request("req_1") as transaction:
        await transaction.answer({"number": 2})
    assert await ledger.first_answer("req_1") == b'{"number":2}'
    with pytest.raises(AlreadyHandled):
        async with ledger.request("req_1") as transaction:
            raise AssertionError
    for _ in range(2):
        async with ledger.request(None) as transaction:
            await transaction.answer({})


def events(count: int, *, first: int = 1) -> list[Event]:
    """Return different events."""
    moved = EXAMPLES["alias.moved"]
    assert isinstance(moved, AliasMoved)
    return [replace(moved, sequence=number) for number in range(first, first + count)]


async def commit(ledger: PostgresLedger, cause: str, *emitted: Event) -> None:
    """Commit a cause that led to these events."""
    async with ledger.transaction(cause) as transaction:
        await transaction.emit(*emitted)


async def test_a_cause_is_known_once_it_is_committed(under_test: LedgerUnderTest) -> None:
    assert not await under_test.ledger.is_known("cause")
    await commit(under_test.ledger, "cause", *events(2))
    assert await under_test.ledger.is_known("cause")
    assert not await under_test.ledger.is_known("never")


async def test_a_cause_may_lead_to_nothing(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause")
    assert await under_test.ledger.is_known("cause")
    assert await under_test.published() == ()


async def test_an_exception_rolls_everything_back(under_test: LedgerUnderTest) -> None:
    with suppress(_Refused):
        async with under_test.ledger.transaction("cause") as transaction:
            await transaction.emit(*events(1))
            raise _Refused
    assert not await under_test.ledger.is_known("cause")
    assert await under_test.published() == ()
    await commit(under_test.ledger, "cause", *events(1))
    assert len(await under_test.published()) == 1


async def test_a_known_cause_is_refused_before_the_body(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause", *events(1))
    with pytest.raises(AlreadyHandled) as refused:
        async with under_test.ledger.transaction("cause"):
            raise AssertionError("the body ran")
    assert refused.value.cause == "cause"
    assert len(await under_test.published()) == 1


async def test_a_concurrent_holder_is_waited_for(under_test: LedgerUnderTest) -> None:
    """Of many at once with one cause, one commits; the others learn that it did."""
    inside = 0

    async def attempt(number: int) -> bool:
        nonlocal inside
        try:
            async with under_test.ledger.transaction("cause") as transaction:
                inside += 1
                assert inside == 1
                await transaction.emit(*events(1, first=number))
                await asyncio.sleep(0.02)
                inside -= 1
        except AlreadyHandled:
            return False
        return True

    async with asyncio.timeout(PATIENCE_SECONDS):
        committed = await asyncio.gather(*(attempt(number) for number in range(1, 5)))
    assert sorted(committed) == [False, False, False, True]
    assert len(await under_test.published()) == 1


async def test_a_holder_that_gives_up_lets_the_next_one_in(under_test: LedgerUnderTest) -> None:
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def give_up() -> None:
        with suppress(_Refused):
            async with under_test.ledger.transaction("cause"):
                entered.set()
                await leave.wait()
                raise _Refused

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(give_up())
        await entered.wait()
        second = tasks.create_task(commit(under_test.ledger, "cause", *events(1)))
        await asyncio.sleep(0.05)
        assert not second.done()
        leave.set()
    assert len(await under_test.published()) == 1


async def test_causes_do_not_wait_for_each_other(under_test: LedgerUnderTest) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), under_test.ledger.transaction("slow"):
        await commit(under_test.ledger, "quick", *events(1))
        assert await under_test.ledger.is_known("quick")


async def test_events_stay_off_the_bus_until_the_commit(under_test: LedgerUnderTest) -> None:
    async with under_test.ledger.transaction("cause") as transaction:
        await transaction.emit(*events(2))
        assert await under_test.published() == ()
        assert not await under_test.ledger.is_known("cause")
    assert len(await under_test.published()) == 2


async def test_events_go_out_in_the_order_of_emission(under_test: LedgerUnderTest) -> None:
    expected = events(30)
    async with under_test.ledger.transaction("cause") as transaction:
        await transaction.emit(*expected[:2])
        await transaction.emit(expected[2])
    for number, event in enumerate(expected[3:], start=3):
        await commit(under_test.ledger, f"cause-{number}", event)
    found = await under_test.published()
    assert [each.id for each in found] == [event.id for event in expected]
    assert [each.subject for each in found] == [event.subject for event in expected]
    envelope, event = decode(found[7].data)
    assert (envelope.cause, event) == ("cause-7", expected[7])


async def test_a_repetition_passes_deduplication_and_keeps_the_event(under_test: LedgerUnderTest) -> None:
    one, two = events(2)
    await commit(under_test.ledger, "cause", one, two)
    await commit(under_test.ledger, "other", *events(1, first=9))
    assert len(await under_test.published()) == 3
    for _ in range(2):
        await under_test.ledger.repeat("cause")
        await under_test.flush()
    found = await under_test.published()
    assert len({each.id for each in found}) == len(found) == 7
    assert [decode(each.data)[1] for each in found[3:]] == [one, two, one, two]
    assert [decode(each.data)[0].id for each in found[3:]] == [one.id, two.id] * 2


async def test_repeating_what_still_waits_changes_nothing(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause", *events(1))
    await under_test.ledger.repeat("cause")
    await under_test.ledger.repeat("unknown")
    assert [each.id for each in await under_test.published()] == [events(1)[0].id]


async def test_the_trace_of_the_emission_is_kept(under_test: LedgerUnderTest) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with extracted({"traceparent": parent}):
        await commit(under_test.ledger, "cause", *events(1))
    (found,) = await under_test.published()
    assert found.headers == {"traceparent": parent}


@pytest.mark.integration
async def test_migrations_run_once_and_by_one_at_a_time(database: str) -> None:
    pools: list[asyncpg.Pool] = [await open_pool(database, schema="loader") for _ in range(3)]
    await asyncio.gather(*(migrate(pool, schema="loader", package=PACKAGE) for pool in pools))
    files = [file for file in resources.files(PACKAGE).iterdir() if file.name.endswith(".sql")]
    assert await pools[0].fetchval("SELECT count(*) FROM loader.mint_migrations") == len(files)
    for pool in pools:
        await pool.close()
