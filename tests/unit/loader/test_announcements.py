"""Residency events reach the bus in order, in the trace of what they speak of, though the bus be away."""

import asyncio
from contextlib import suppress

from opentelemetry.sdk.trace import TracerProvider

from mint_common.bus.port import Message
from mint_common.errors import Unavailable
from mint_common.events import AdapterEvicted
from mint_common.events.codec import decode
from mint_common.ids import EngineId
from services.loader.adapters.announcements import BusAnnouncements
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock
from tests.testing.factories import BASE, DIGEST, TENANT


class AbsentBus(MemoryBus):
    """A bus that is away for the first ``failures`` messages."""

    failures = 0

    async def publish(self, message: Message) -> None:
        """Fail or store."""
        if self.failures:
            self.failures -= 1
            raise Unavailable(what="bus", problem="away")
        await super().publish(message)


def evicted(sequence: int) -> AdapterEvicted:
    return AdapterEvicted(
        tenant_id=TENANT, base=BASE, engine_id=EngineId("e"), epoch="x", sequence=sequence, digest=DIGEST
    )


async def test_events_keep_their_order_and_wait_for_the_bus() -> None:
    clock = ManualClock()
    bus = AbsentBus(clock)
    bus.failures = 2
    announcements = BusAnnouncements(bus, clock)
    running = asyncio.create_task(announcements.run())
    for sequence in (1, 2, 3):
        announcements.announce(evicted(sequence), cause="c")
    await clock.advance(5.0)
    assert [decode(message.data)[1] for message in bus.messages] == [evicted(n) for n in (1, 2, 3)]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_an_event_carries_the_trace_in_which_it_was_announced() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock)
    announcements = BusAnnouncements(bus, clock)
    running = asyncio.create_task(announcements.run())
    with TracerProvider().get_tracer("t").start_as_current_span("load") as span:
        announcements.announce(evicted(1), cause="c")
    await clock.advance(1.0)
    (message,) = bus.messages
    assert format(span.get_span_context().trace_id, "032x") in message.headers["traceparent"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_news_waits_while_requests_wait_for_loads_but_not_for_long() -> None:
    clock, busy = ManualClock(), True
    bus = MemoryBus(clock)
    announcements = BusAnnouncements(bus, clock, is_busy=lambda: busy)
    running = asyncio.create_task(announcements.run())
    announcements.announce(evicted(1), cause="c")
    await clock.advance(0.3)
    announcements.announce(evicted(2), cause="c")
    assert not bus.messages
    await clock.advance(0.3)
    assert [decode(message.data)[1] for message in bus.messages] == [evicted(1)], "at the latest"
    busy = False
    await clock.advance(0.05)
    assert [decode(message.data)[1] for message in bus.messages] == [evicted(1), evicted(2)]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
