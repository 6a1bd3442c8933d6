"""Dispatch over the memory bus, with a clock that the test turns."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from mint_common.bus.port import Message
from mint_common.errors import AdapterInvalid, AlreadyHandled, Unavailable
from mint_common.events import AliasMoved, Event, RevisionExported, RevisionPublished, RevisionRejected
from mint_common.events.codec import decode
from mint_common.runtime.dispatch import Dispatcher, publish_event
from mint_common.runtime.retries import Bury
from mint_common.telemetry.logs import JsonFormatter
from mint_common.telemetry.tracing import extracted
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock, settle
from tests.testing.factories import EXAMPLES
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay

EXPORTED = EXAMPLES["revision.exported"]
PUBLISHED = EXAMPLES["revision.published"]
MOVED = EXAMPLES["alias.moved"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class World:
    """A bus, a ledger, a clock and one dispatcher under test."""

    def __init__(self, *, ledger: MemoryLedger | None = None, concurrency: int = 1) -> None:
        self.clock = ManualClock(1000.0)
        self.bus = MemoryBus(self.clock)
        self.ledger = ledger
        self.dispatcher = Dispatcher(
            bus=self.bus,
            ledger=ledger,
            durable="registry",
            clock=self.clock,
            ack_wait_seconds=30.0,
            max_attempts=5,
            concurrency=concurrency,
        )

    async def publish(self, *events: Event, cause: str = "request-1") -> None:
        for event in events:
            await publish_event(self.bus, event, cause=cause, now=self.clock.now())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.dispatcher.run())
        await settle()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def seen(self, prefix: str) -> list[Message]:
        return [each for each in self.bus.messages if each.subject.startswith(prefix)]


class Recorder:
    """A handler that remembers what it saw, fails as told, and answers as told."""

    def __init__(self, clock: ManualClock, *, errors: Sequence[Exception] = (), answer: Sequence[Event] = ()):
        self.events: list[Event] = []
        self.times: list[float] = []
        self.ended = 0
        self._clock = clock
        self._errors = list(errors)
        self._answer = answer
        self.takes_seconds = 0.0

    async def __call__(self, event: Event) -> Sequence[Event]:
        self.events.append(event)
        self.times.append(self._clock.now())
        if self.takes_seconds:
            await self._clock.sleep(self.takes_seconds)
        if self._errors:
            raise self._errors.pop(0)
        self.ended += 1
        return self._answer


async def test_a_handler_gets_the_event_and_its_answer_is_published_under_its_id() -> None:
    world = World()
    handler = Recorder(world.clock, answer=[PUBLISHED])
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        assert handler.events == [EXPORTED]
        (answer,) = world.seen("mint.revision.published")
        envelope, event = decode(answer.data)
        assert (envelope.cause, envelope.time, event) == (EXPORTED.id, 1000.0, PUBLISHED)
        assert answer.id == PUBLISHED.id
        await world.clock.advance(100)
        assert len(handler.events) == 1


async def test_only_subscribed_types_and_bases_arrive() -> None:
    world = World()
    tiny, any_base = Recorder(world.clock), Recorder(world.clock)
    world.dispatcher.on(RevisionExported, tiny, base="tiny")
    world.dispatcher.on(RevisionRejected, any_base)
    dotted = replace(EXAMPLES["revision.rejected"], base="qwen2.5")
    async with world.running():
        await world.publish(MOVED, replace(EXPORTED, base="other", export_id="x"), EXPORTED, dotted)
        await settle()
    assert (tiny.events, any_base.events) == ([EXPORTED], [dotted])


async def test_the_trace_goes_on_through_the_handler() -> None:
    world = World()
    world.dispatcher.on(RevisionExported, Recorder(world.clock, answer=[PUBLISHED]))
    async with world.running():
        with extracted({"traceparent": TRACE}):
            await world.publish(EXPORTED)
        await settle()
    (answer,) = world.seen("mint.revision.published")
    assert answer.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]


async def test_a_failing_event_is_tried_again_with_growing_delays_and_blocks_nobody() -> None:
    world = World()
    failing = Recorder(world.clock, errors=[ValueError("bug"), ValueError("bug"), ValueError("bug")])
    other = Recorder(world.clock)
    world.dispatcher.on(RevisionExported, failing)
    world.dispatcher.on(AliasMoved, other)
    async with world.running():
        await world.publish(EXPORTED, MOVED)
        await settle()
        assert (len(failing.events), len(other.events)) == (1, 1)
        for _ in range(20):
            await world.clock.advance(0.1)
    assert failing.ended == 1
    waits = [later - earlier for earlier, later in zip(failing.times, failing.times[1:], strict=False)]
    assert len(waits) == 3
    assert 0.1 <= waits[0] <= 0.3
    assert waits[1] <= 0.5
    assert 0.3 < waits[2] <= 0.9
    assert world.seen("mint.dead") == []


async def test_an_event_that_keeps_failing_becomes_a_dead_letter() -> None:
    world = World()
    handler = Recorder(world.clock, errors=[ValueError("no\nluck ü")] * 9)
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(EXPORTED)
        for _ in range(100):
            await world.clock.advance(1)
    assert len(handler.events) == 5
    (dead,) = world.seen("mint.dead")
    assert dead.subject == "mint.dead.registry.revision.exported"
    assert decode(dead.data)[1] == EXPORTED
    assert dead.headers["Mint-Dead-Attempts"] == "5"
    assert dead.headers["Mint-Dead-Code"] == "internal"
    assert dead.headers["Mint-Dead-Subject"] == EXPORTED.subject
    assert dead.headers["Mint-Dead-Reason"].isascii()
    assert dead.headers["Mint-Dead-Reason"].isprintable()


@pytest.mark.parametrize("trouble", [None, AlreadyHandled(cause="c"), ValueError("again")], ids=repr)
async def test_whoever_waits_is_told_when_an_event_is_given_up(trouble: Exception | None) -> None:
    world = World()
    told: list[tuple[Event, Bury]] = []

    async def tell(event: Event, decision: Bury) -> None:
        assert world.seen("mint.dead") == []
        told.append((event, decision))
        if trouble is not None:
            raise trouble

    handler = Recorder(world.clock, errors=[ValueError("no luck")] * 9)
    world.dispatcher.on(RevisionExported, handler, given_up=tell)
    async with world.running():
        await world.publish(EXPORTED)
        await world.clock.advance(100)
        for _ in range(100):
            await world.clock.advance(1)
    assert told == [(EXPORTED, Bury(code="internal", reason="ValueError: no luck"))]
    assert len(world.seen("mint.dead")) == 1


async def test_the_text_of_an_error_that_may_quote_data_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    world = World()
    errors = [ValueError("marker-7f3"), Unavailable(what="nats", problem="away")]
    errors.append(AdapterInvalid(reason="rank", problem="marker-7f3"))
    world.dispatcher.on(RevisionExported, Recorder(world.clock, errors=errors))
    async with world.running():
        await world.publish(EXPORTED)
        await world.clock.advance(100)
    lines = [JsonFormatter("registry").format(record) for record in caplog.records]
    assert "marker-7f3" not in "\n".join(lines)
    told = [json.loads(line) for line in lines if EXPORTED.id in line]
    assert [line["message"] for line in told] == ["event failed", "event failed", "event buried"]
    assert [line["error"].split(":")[0] for line in told] == [
        f"{kind} at test_dispatch.py" for kind in ("ValueError", "Unavailable", "AdapterInvalid")
    ]
    assert "away" in told[1]["problem"]


async def test_an_error_that_a_retry_cannot_help_is_buried_at_once() -> None:
    world = World()
    handler = Recorder(world.clock, errors=[AdapterInvalid(reason="rank", problem="too large")])
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        await world.clock.advance(100)
    assert len(handler.events) == 1
    assert world.seen("mint.dead")[0].headers["Mint-Dead-Code"] == "adapter_invalid"


async def test_a_message_that_cannot_be_read_is_buried_and_the_next_one_handled() -> None:
    world = World()
    handler = Recorder(world.clock)
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.bus.publish(Message(id="x", subject=EXPORTED.subject, data=b"\x00 not json"))
        await world.publish(EXPORTED)
        await settle()
    assert handler.events == [EXPORTED]
    (dead,) = world.seen("mint.dead")
    assert (dead.data, dead.headers["Mint-Dead-Code"]) == (b"\x00 not json", "event_invalid")


async def test_a_part_that_is_away_is_waited_for_beyond_the_attempts() -> None:
    world = World()
    handler = Recorder(world.clock, errors=[Unavailable(what="postgres", problem="refused")] * 12)
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(EXPORTED)
        for _ in range(100):
            await world.clock.advance(5)
    assert handler.ended == 1
    assert world.seen("mint.dead") == []


async def test_a_long_handler_keeps_its_delivery() -> None:
    world = World(concurrency=2)
    handler = Recorder(world.clock)
    handler.takes_seconds = 200
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        for _ in range(50):
            await world.clock.advance(5)
        assert (len(handler.events), handler.ended) == (1, 1)


async def test_concurrency_bounds_what_runs_at_once() -> None:
    world = World(concurrency=3)
    handler = Recorder(world.clock)
    handler.takes_seconds = 10
    world.dispatcher.on(RevisionExported, handler)
    async with world.running():
        await world.publish(*(replace(EXPORTED, export_id=f"e{n}") for n in range(7)))
        await settle()
        assert len(handler.events) == 3
        await world.clock.advance(10)
        assert (len(handler.events), handler.ended) == (6, 3)
        await world.clock.advance(10)
        await world.clock.advance(10)
        assert handler.ended == 7


async def test_one_at_a_time_keeps_publish_order() -> None:
    world = World()
    handler = Recorder(world.clock)
    handler.takes_seconds = 1
    world.dispatcher.on(RevisionExported, handler)
    events = [replace(EXPORTED, export_id=f"e{n}") for n in range(5)]
    async with world.running():
        await world.publish(*events)
        for _ in range(7):
            await world.clock.advance(1)
    assert handler.events == events


async def test_a_handler_with_rows_commits_once_and_a_repetition_repeats_its_events() -> None:
    ledger = MemoryLedger()
    world = World(ledger=ledger)
    rows: list[str] = []

    async def on_exported(event: RevisionExported) -> Sequence[Event]:
        async with ledger.transaction(event.id) as transaction:
            transaction.connection.at_commit(lambda: rows.append(event.id))
            await transaction.emit(PUBLISHED)
        return ()

    world.dispatcher.on(RevisionExported, on_exported)
    relay = MemoryRelay(ledger, world.bus, world.clock)
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        await relay.publish_pending()
        await world.clock.advance(200)
        await world.publish(EXPORTED)
        await settle()
        await relay.publish_pending()
    assert rows == [EXPORTED.id]
    published = world.seen("mint.revision.published")
    assert [decode(each.data)[1] for each in published] == [PUBLISHED, PUBLISHED]
    assert published[0].id != published[1].id


async def test_a_cause_that_somebody_else_commits_meanwhile_counts_as_known() -> None:
    ledger = MemoryLedger()
    world = World(ledger=ledger)

    async def on_exported(event: RevisionExported) -> Sequence[Event]:
        async with ledger.transaction(event.id) as transaction:
            await transaction.emit(PUBLISHED)
        async with ledger.transaction(event.id):
            raise AssertionError
        return ()

    world.dispatcher.on(RevisionExported, on_exported)
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        await world.clock.advance(100)
    assert world.seen("mint.dead") == []
    assert [row.repeats for row in ledger.rows] == [0]


async def test_stopping_finishes_what_is_in_hand() -> None:
    world = World()
    handler = Recorder(world.clock, answer=[PUBLISHED])
    handler.takes_seconds = 1
    world.dispatcher.on(RevisionExported, handler)
    async with world.running() as task:
        await world.publish(EXPORTED, replace(EXPORTED, export_id="next"))
        await settle()
        task.cancel()
        await settle()
        assert not task.done()
        await world.clock.advance(1)
        await settle()
        assert task.cancelled()
    assert (handler.ended, len(world.seen("mint.revision.published"))) == (1, 1)


async def test_what_does_not_end_in_time_is_given_back() -> None:
    world = World()
    slow = Recorder(world.clock)
    slow.takes_seconds = 1e9
    stopping = Dispatcher(
        bus=world.bus, ledger=None, durable="registry", clock=world.clock, drain_seconds=0.01
    )
    stopping.on(RevisionExported, slow)
    task = asyncio.create_task(stopping.run())
    await world.publish(EXPORTED)
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    quick = Recorder(world.clock)
    world.dispatcher.on(RevisionExported, quick)
    async with world.running():
        await settle()
        assert (slow.ended, quick.ended) == (0, 1)


async def test_outcomes_are_counted() -> None:
    def count(outcome: str) -> float:
        labels = {"type": "revision.exported", "outcome": outcome}
        return REGISTRY.get_sample_value("mint_dispatch_events_total", labels) or 0.0

    before = [count(outcome) for outcome in ("handled", "failed", "dead")]
    world = World()
    errors = [ValueError(), AdapterInvalid(reason="x", problem="y")]
    world.dispatcher.on(RevisionExported, Recorder(world.clock, errors=errors))
    async with world.running():
        await world.publish(EXPORTED)
        await settle()
        await world.clock.advance(1)
        await world.publish(replace(EXPORTED, export_id="fine"))
        await settle()
    after = [count(outcome) for outcome in ("handled", "failed", "dead")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


async def test_a_type_has_one_handler() -> None:
    world = World()
    world.dispatcher.on(RevisionPublished, Recorder(world.clock))
    with pytest.raises(AssertionError):
        world.dispatcher.on(RevisionPublished, Recorder(world.clock))
