"""Dispatch: decode, span, ledger, handler, publish, ack; the only place that publishes and acks.

Invariants:
- An event is acked after its effects are durable: its rows committed, its events on the bus or in the outbox.
- A cause that the ledger knows is not handled again; its events are published once more.
- During an upgrade, the replicas of a service share one subscription: an event that only a newer replica
reads
  or handles is returned to it.
- A failing event is retried with growing delays, and finally stored as a dead letter: it never blocks the
  events after it and is never lost silently. Work that waits for its result is failed first (``given_up``).
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from mint_common.bus.port import Bus, Delivery, Message, Start
from mint_common.errors import AlreadyHandled, EventInvalid, Overloaded, Unavailable, trace_of
from mint_common.events.codec import EventTooNew, decode
from mint_common.events.event import Event
from mint_common.events.subjects import subjects_of
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger, event_message
from mint_common.runtime.retries import Bury, decide
from mint_common.telemetry.series import begin
from mint_common.telemetry.tracing import Attributes, extracted, span
from mint_common.waiting import cancel_all, raise_if_cancelled

E = TypeVar("E", bound=Event)
Handler = Callable[[E], Awaitable[Sequence[Event]]]
GivenUp = Callable[[E, Bury], Awaitable[None]]
"""Commits the consequences of an event that cannot be handled. Idempotent."""

RESUBSCRIBE_SECONDS = 1.0
UPGRADE_SECONDS = 15.0
"""Delay until an event that only a newer replica can read is delivered again."""
UPGRADE_ATTEMPTS = 240
"""Deliveries before such an event is given up: an hour, in which an upgrade ends or is taken back."""
IGNORED_ATTEMPTS = 8
"""Deliveries before an event without a handler is acknowledged: a newer version may have dropped it."""
MAX_GIVEN_BACK = 1_000
"""Events that one dispatcher has given back and the bus holds; the next is a dead letter at once. A tenth of
what the bus has out unanswered per subscription: more would stop the events that this version reads."""
MAX_REASON = 500
"""Characters of a dead letter's reason."""

_log = logging.getLogger(__name__)
_events = Counter(
    "mint_dispatch_events_total",
    "Deliveries of events by outcome: handled, known (a repetition), ignored, returned (to a newer replica), "
    "failed (it comes again), dead, unanswered",
    ["type", "outcome"],
)
_OUTCOMES = ("handled", "known", "ignored", "returned", "failed", "dead", "unanswered")
_UNREAD = "?"
"""The type of an event that was not read."""
begin(_events, [_UNREAD], ["returned", "dead", "unanswered"])
_seconds = Histogram(
    "mint_dispatch_handler_seconds", "Seconds from an event's delivery to its acknowledgement", ["type"]
)


async def publish_event(bus: Bus, event: Event, *, cause: str, now: float) -> None:
    """Publish an event under the current trace: for services without a ledger. Raises Unavailable."""
    await bus.publish(event_message(event, cause=cause, now=now))


class Dispatcher:
    """Routes the events of one durable subscription to handlers."""

    def __init__(
        self,
        *,
        bus: Bus,
        ledger: PostgresLedger | None,
        durable: str,
        clock: Clock,
        ack_wait_seconds: float = 30.0,
        max_attempts: int = 20,
        concurrency: int = 1,
        drain_seconds: float = 10.0,
        start: Start = "oldest",
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._durable = durable
        self._clock = clock
        self._ack_wait_seconds = ack_wait_seconds
        self._max_attempts = max_attempts
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._start = start
        self._handlers: dict[tuple[str, str | None], tuple[Handler[Any], GivenUp[Any] | None]] = {}
        self._subjects: list[str] = []
        self._given_back: deque[float] = deque()

    def on(
        self,
        event_type: type[E],
        handler: Handler[E],
        *,
        base: str | None = None,
        given_up: GivenUp[E] | None = None,
    ) -> None:
        """Handle a type of event, of one base or of all. With concurrency 1, in publish order."""
        key = (event_type.type, base)
        assert key not in self._handlers, f"{key} has a handler already"
        self._handlers[key] = handler, given_up
        begin(_events, [event_type.type], _OUTCOMES)
        self._subjects.append(subjects_of(event_type, base=base))

    async def run(self) -> None:
        """Handle events until cancelled, through outages of the bus.

        When cancelled, running handlers may end within ``drain_seconds``; otherwise their messages go back to
        the bus.
        """
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._concurrency):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            try:
                async with self._bus.subscribe(
                    durable=self._durable,
                    subjects=self._subjects,
                    ack_wait_seconds=self._ack_wait_seconds,
                    start=self._start,
                ) as deliveries:
                    async for delivery in deliveries:
                        await self._finish(self._handle(delivery))
            except Unavailable as error:
                raise_if_cancelled()
                _log.warning("no subscription", extra={"durable": self._durable, "problem": str(error)})
                await self._clock.sleep(RESUBSCRIBE_SECONDS)

    async def _finish(self, work: Coroutine[None, None, None]) -> None:
        """Run some work; once cancelled, leave it a moment to end by itself."""
        task = asyncio.create_task(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=self._drain_seconds)
            raise
        finally:
            await cancel_all(task)

    async def _handle(self, delivery: Delivery) -> None:
        """Answer one delivery. The bus redelivers it when the answer cannot be sent."""
        started = self._clock.monotonic()
        try:
            event_type, outcome = await self._answer(delivery)
        except Unavailable as error:
            event_type, outcome = _UNREAD, "unanswered"
            _log.warning(
                "delivery unanswered", extra={"message_id": delivery.message.id, "problem": str(error)}
            )
        except asyncio.CancelledError:
            await delivery.retry(delay_seconds=0)
            raise
        _events.labels(event_type, outcome).inc()
        _seconds.labels(event_type).observe(self._clock.monotonic() - started)

    async def _answer(self, delivery: Delivery) -> tuple[str, str]:
        """Return the event's type and the outcome."""
        message = delivery.message
        try:
            _, event = decode(message.data)
        except EventTooNew as error:
            if delivery.attempt < UPGRADE_ATTEMPTS and self._may_give_back():
                return _UNREAD, await self._give_back(delivery, error)
            await self._bury(delivery, Bury(code=error.code, reason=str(error)))
            return _UNREAD, "dead"
        except EventInvalid as error:
            await self._bury(delivery, Bury(code=error.code, reason=str(error)))
            return _UNREAD, "dead"
        name, kind = f"handle {event.type}", SpanKind.CONSUMER
        attributes: Attributes = {"event_id": event.id, "attempt": delivery.attempt}
        with extracted(message.headers), span(name, kind=kind, attributes=attributes):
            return event.type, await self._attempt(delivery, event)

    async def _give_back(self, delivery: Delivery, error: EventTooNew) -> str:
        if delivery.attempt == 1:
            facts = {"message_id": delivery.message.id, "problem": str(error)}
            _log.warning("event left to a newer replica", extra=facts)
        await delivery.retry(delay_seconds=UPGRADE_SECONDS)
        self._given_back.append(self._clock.monotonic() + UPGRADE_SECONDS)
        return "returned"

    def _may_give_back(self) -> bool:
        while self._given_back and self._given_back[0] <= self._clock.monotonic():
            self._given_back.popleft()
        return len(self._given_back) < MAX_GIVEN_BACK

    async def _attempt(self, delivery: Delivery, event: Event) -> str:
        if self._found(event) is None and delivery.attempt < IGNORED_ATTEMPTS:
            error = EventTooNew(type=event.type, problem="it has no handler")
            if self._may_give_back():
                return await self._give_back(delivery, error)
            await self._bury(delivery, Bury(code=error.code, reason=str(error)))
            return "dead"
        try:
            async with self._kept_alive(delivery):
                outcome = await self._take(event)
        except Exception as error:  # noqa: BLE001  (dispatch is where a handler's errors end)
            return await self._fail(delivery, event, error)
        await delivery.ack()
        return outcome

    async def _take(self, event: Event) -> str:
        """Handle an event, or repeat the events of its first handling."""
        found = self._found(event)
        if found is None:
            return "ignored"  # subscribed by an older version of this service
        if self._ledger is not None and await self._ledger.is_known(event.id):
            await self._ledger.repeat(event.id)
            return "known"
        try:
            events = await found[0](event)
        except AlreadyHandled as error:
            if self._ledger is not None:
                await self._ledger.repeat(str(error.cause))
            return "known"
        for led_to in events:
            await publish_event(self._bus, led_to, cause=event.id, now=self._clock.now())
        return "handled"

    async def _fail(self, delivery: Delivery, event: Event, error: Exception) -> str:
        decision = decide(
            error, attempt=delivery.attempt, max_attempts=self._max_attempts, jitter=random.random()
        )
        facts = {"event_id": event.id, "event_type": event.type, "attempt": delivery.attempt, **_told(error)}
        if isinstance(decision, Bury):
            _log.error("event buried", extra=facts)
            await self._tell(event, decision)
            await self._bury(delivery, decision)
            return "dead"
        _log.warning("event failed", extra={**facts, "retry_seconds": decision.delay_seconds})
        await delivery.retry(delay_seconds=decision.delay_seconds)
        return "failed"

    def _found(self, event: Event) -> tuple[Handler[Any], GivenUp[Any] | None] | None:
        return self._handlers.get((event.type, event.base)) or self._handlers.get((event.type, None))

    async def _tell(self, event: Event, decision: Bury) -> None:
        """Commit the consequences of an event that is given up. An error here does not revive the event."""
        found = self._found(event)
        if found is None or found[1] is None:
            return
        try:
            await found[1](event, decision)
        except AlreadyHandled:
            return
        except Exception as error:  # noqa: BLE001  (dispatch is where a handler's errors end)
            _log.error("nobody was told", extra={"event_id": event.id, **_told(error)})

    async def _bury(self, delivery: Delivery, decision: Bury) -> None:
        """Store the message as a dead letter, then end its delivery."""
        await self._bus.publish(_dead_letter(delivery, durable=self._durable, decision=decision))
        await delivery.reject()

    @asynccontextmanager
    async def _kept_alive(self, delivery: Delivery) -> AsyncIterator[None]:
        """Extend the delivery while the body runs, so that it is not redelivered to another consumer."""
        heartbeat = asyncio.create_task(self._extend(delivery))
        try:
            yield
        finally:
            await cancel_all(heartbeat)

    async def _extend(self, delivery: Delivery) -> None:
        while True:
            await self._clock.sleep(self._ack_wait_seconds / 3)
            try:
                await delivery.extend()
            except Unavailable as error:
                _log.warning("heartbeat lost", extra={"problem": str(error)})


def _told(error: Exception) -> dict[str, str]:
    """Return the log text of a handler's error: its message only if it reports an outage and contains no
    data.
    """
    problem = {"problem": str(error)} if isinstance(error, Unavailable | Overloaded) else {}
    return {"error": trace_of(error), **problem}


def _dead_letter(delivery: Delivery, *, durable: str, decision: Bury) -> Message:
    """Return the dead letter of a delivery under ``mint.dead.>``, with its trace and the error."""
    message = delivery.message
    event_type = ".".join(message.subject.split(".")[1:3])
    return Message(
        id=f"{message.id}.dead.{durable}",
        subject=f"mint.dead.{durable}.{event_type}",
        data=message.data,
        headers={
            **message.headers,
            "Mint-Dead-Subject": message.subject,
            "Mint-Dead-Attempts": str(delivery.attempt),
            "Mint-Dead-Code": decision.code,
            # Header values are one line of ASCII.
            "Mint-Dead-Reason": ascii(decision.reason)[1:-1][:MAX_REASON],
        },
    )
