"""What every ledger must do: run each of `LEDGER_CONTRACT` with an empty ledger and its relay."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mint_common.bus.port import Message
from mint_common.errors import AlreadyHandled
from mint_common.events import AliasMoved, Event
from mint_common.events.codec import decode
from mint_common.runtime.ledger import Ledger
from mint_common.telemetry.tracing import extracted
from mint_common.testing.bus_memory import MemoryBus
from mint_common.testing.factories import EXAMPLES

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerUnderTest:
    """A ledger, the bus that its relay publishes to, and ``flush``: relay until nothing waits."""

    ledger: Ledger[Any]  # Any: each adapter has a connection of its own
    bus: MemoryBus
    flush: Callable[[], Awaitable[None]]

    async def published(self) -> Sequence[Message]:
        """Return all that is on the bus once nothing waits."""
        await self.flush()
        return self.bus.messages


Check = Callable[[LedgerUnderTest], Awaitable[None]]


class _Refused(Exception):
    pass


def _refuse() -> None:
    raise _Refused


def events(count: int, *, first: int = 1) -> list[Event]:
    """Return different events."""
    moved = EXAMPLES["alias.moved"]
    assert isinstance(moved, AliasMoved)
    return [replace(moved, sequence=number) for number in range(first, first + count)]


async def commit(ledger: Ledger[Any], cause: str, *emitted: Event) -> None:  # Any: see above
    """Commit a cause that led to these events."""
    async with ledger.transaction(cause) as transaction:
        await transaction.emit(*emitted)


async def an_unknown_cause_has_no_outcome(under_test: LedgerUnderTest) -> None:
    assert await under_test.ledger.outcome("never") is None


async def a_committed_cause_gives_its_events_in_order(under_test: LedgerUnderTest) -> None:
    one, two, three = events(3)
    async with under_test.ledger.transaction("cause") as transaction:
        await transaction.emit(one, two)
        await transaction.emit(three)
    assert list(await under_test.ledger.outcome("cause") or ()) == [one, two, three]


async def a_cause_may_lead_to_nothing(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause")
    outcome = await under_test.ledger.outcome("cause")
    assert outcome is not None
    assert len(outcome) == 0
    assert await under_test.published() == ()


async def an_exception_rolls_everything_back(under_test: LedgerUnderTest) -> None:
    try:
        async with under_test.ledger.transaction("cause") as transaction:
            await transaction.emit(*events(1))
            _refuse()
    except _Refused:
        pass
    assert await under_test.ledger.outcome("cause") is None
    assert await under_test.published() == ()
    await commit(under_test.ledger, "cause", *events(1))
    assert len(await under_test.published()) == 1


async def a_known_cause_is_refused_before_the_body(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause", *events(1))
    try:
        async with under_test.ledger.transaction("cause"):
            raise AssertionError("the body ran")
    except AlreadyHandled as error:
        cause = error.cause
    assert cause == "cause"
    assert len(await under_test.published()) == 1


async def a_concurrent_holder_is_waited_for(under_test: LedgerUnderTest) -> None:
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


async def a_holder_that_gives_up_lets_the_next_one_in(under_test: LedgerUnderTest) -> None:
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def give_up() -> None:
        try:
            async with under_test.ledger.transaction("cause"):
                entered.set()
                await leave.wait()
                _refuse()
        except _Refused:
            pass

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(give_up())
        await entered.wait()
        second = tasks.create_task(commit(under_test.ledger, "cause", *events(1)))
        await asyncio.sleep(0.05)
        assert not second.done()
        leave.set()
    assert len(await under_test.published()) == 1


async def causes_do_not_wait_for_each_other(under_test: LedgerUnderTest) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), under_test.ledger.transaction("slow"):
        await commit(under_test.ledger, "quick", *events(1))
        assert await under_test.ledger.outcome("quick") is not None


async def events_stay_off_the_bus_until_the_commit(under_test: LedgerUnderTest) -> None:
    async with under_test.ledger.transaction("cause") as transaction:
        await transaction.emit(*events(2))
        assert await under_test.published() == ()
        assert await under_test.ledger.outcome("cause") is None
    assert len(await under_test.published()) == 2


async def events_go_out_in_the_order_of_emission(under_test: LedgerUnderTest) -> None:
    expected = events(30)
    for number, event in enumerate(expected):
        await commit(under_test.ledger, f"cause-{number}", event)
    found = await under_test.published()
    assert [each.id for each in found] == [event.id for event in expected]
    assert [each.subject for each in found] == [event.subject for event in expected]
    envelope, event = decode(found[7].data)
    assert (envelope.cause, event) == ("cause-7", expected[7])


async def a_repetition_passes_deduplication_and_keeps_the_event(under_test: LedgerUnderTest) -> None:
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


async def repeating_what_still_waits_changes_nothing(under_test: LedgerUnderTest) -> None:
    await commit(under_test.ledger, "cause", *events(1))
    await under_test.ledger.repeat("cause")
    await under_test.ledger.repeat("unknown")
    assert [each.id for each in await under_test.published()] == [events(1)[0].id]


async def the_trace_of_the_emission_is_kept(under_test: LedgerUnderTest) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with extracted({"traceparent": parent}):
        await commit(under_test.ledger, "cause", *events(1))
    (found,) = await under_test.published()
    assert found.headers == {"traceparent": parent}


LEDGER_CONTRACT: Sequence[Check] = (
    an_unknown_cause_has_no_outcome,
    a_committed_cause_gives_its_events_in_order,
    a_cause_may_lead_to_nothing,
    an_exception_rolls_everything_back,
    a_known_cause_is_refused_before_the_body,
    a_concurrent_holder_is_waited_for,
    a_holder_that_gives_up_lets_the_next_one_in,
    causes_do_not_wait_for_each_other,
    events_stay_off_the_bus_until_the_commit,
    events_go_out_in_the_order_of_emission,
    a_repetition_passes_deduplication_and_keeps_the_event,
    repeating_what_still_waits_changes_nothing,
    the_trace_of_the_emission_is_kept,
)
