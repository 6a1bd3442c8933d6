"""Promise: kill -9 anywhere loses no event and makes no row twice.

Three handlers in a row, as in the real chain: rows and outbox, rows and outbox, then a service without a
ledger. The process that runs them dies at any points of its dealings with the bus and the ledger.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.events import AdapterWanted, AliasMoved, Event, RevisionExported, RevisionPublished
from mint_common.events.codec import decode
from mint_common.runtime.dispatch import Dispatcher, publish_event
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock
from tests.testing.crashes import Life, MortalBus, MortalLedger, live_and_die
from tests.testing.factories import EXAMPLES
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay

ACK_WAIT_SECONDS = 3.0


class Chain:
    """The servers, which never die, and what the handlers stored."""

    def __init__(self, count: int) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock)
        self.ledger = MemoryLedger(self.clock)
        self.rows: Counter[str] = Counter()
        self.exports = [replace(EXAMPLES["revision.exported"], export_id=f"e{n}") for n in range(count)]

    async def process(self, life: Life) -> None:
        """Run the relay and the dispatchers until death."""
        bus = MortalBus(self.bus, life)
        ledger = MortalLedger(self.ledger, life)
        handlers = Handlers(ledger, self.rows)

        def dispatcher(durable: str, of: MortalLedger | None) -> Dispatcher:
            return Dispatcher(
                bus=bus,
                ledger=of,
                durable=durable,
                clock=self.clock,
                ack_wait_seconds=ACK_WAIT_SECONDS,
                drain_seconds=0,
            )

        registry, rollout, loader = (
            dispatcher("registry", ledger),
            dispatcher("rollout", ledger),
            dispatcher("loader", None),
        )
        registry.on(RevisionExported, handlers.on_exported)
        rollout.on(RevisionPublished, handlers.on_published)
        loader.on(AliasMoved, handlers.on_moved)
        async with asyncio.TaskGroup() as tasks:
            for part in (registry, rollout, loader, MemoryRelay(self.ledger, bus, self.clock)):
                tasks.create_task(part.run())

    def heard(self, event_type: type[Event]) -> Counter[str]:
        """Return how often each event of a type is on the bus."""
        found = (
            message for message in self.bus.messages if message.subject.startswith(f"mint.{event_type.type}")
        )
        return Counter(decode(message.data)[0].id for message in found)

    def is_done(self) -> bool:
        return len(self.heard(AdapterWanted)) == len(self.exports)


class Handlers:
    """Each event leads to one row and one event of the next kind."""

    def __init__(self, ledger: MortalLedger, rows: Counter[str]) -> None:
        self._ledger = ledger
        self._rows = rows

    async def on_exported(self, event: RevisionExported) -> Sequence[Event]:
        return await self._commit(event, replace(EXAMPLES["revision.published"], export_id=event.export_id))

    async def on_published(self, event: RevisionPublished) -> Sequence[Event]:
        return await self._commit(event, replace(EXAMPLES["alias.moved"], alias=event.export_id))

    async def on_moved(self, event: AliasMoved) -> Sequence[Event]:
        return [replace(EXAMPLES["adapter.wanted"], request_id=event.alias)]

    async def _commit(self, event: Event, led_to: Event) -> Sequence[Event]:
        async with self._ledger.transaction(event.id) as transaction:
            transaction.connection.at_commit(lambda: self._rows.update([event.id]))
            await transaction.emit(led_to)
        return ()


async def run(count: int, lives: Sequence[int]) -> Chain:
    chain = Chain(count)
    for export in chain.exports:
        await publish_event(chain.bus, export, cause="test", now=0.0)
    await live_and_die(chain.process, lives=lives, clock=chain.clock, is_done=chain.is_done)
    return chain


def check(chain: Chain) -> None:
    count = len(chain.exports)
    assert set(chain.rows.values()) == {1}, "a row was made twice"
    assert len(chain.rows) == 2 * count
    for event_type in (RevisionPublished, AliasMoved, AdapterWanted):
        assert len(chain.heard(event_type)) == count, "an event was lost"
    assert not any(message.subject.startswith("mint.dead") for message in chain.bus.messages)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 3), lives=st.lists(st.integers(0, 45), max_size=6))
def test_no_crash_loses_an_event_or_makes_a_row_twice(count: int, lives: list[int]) -> None:
    check(asyncio.run(run(count, lives)))


@pytest.mark.parametrize("points", range(30))
def test_a_crash_at_every_single_point_of_one_event(points: int) -> None:
    check(asyncio.run(run(1, [points])))


def test_without_a_crash_every_event_is_on_the_bus_once() -> None:
    chain = asyncio.run(run(3, []))
    check(chain)
    for event_type in (RevisionPublished, AliasMoved, AdapterWanted):
        assert set(chain.heard(event_type).values()) == {1}


def test_the_points_include_each_side_of_a_commit_a_publication_and_an_ack() -> None:
    life = Life(None)
    chain = Chain(1)

    async def whole() -> None:
        await publish_event(chain.bus, chain.exports[0], cause="test", now=0.0)
        await live_and_die(lambda _: chain.process(life), lives=[], clock=chain.clock, is_done=chain.is_done)

    asyncio.run(whole())
    sides = {f"{side} {what}" for side in ("before", "after") for what in ("commit", "publish", "ack")}
    assert sides <= set(life.passed)
