"""A ledger in memory, and its relay: for tests of handlers, with the promises of the real one.

It outlives a simulated crash of the service that uses it, as a database does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import msgspec

from mint_common.bus.port import Bus, Message
from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.events.event import Event
from mint_common.ids import new_id
from mint_common.runtime.clock import Clock, SystemClock
from mint_common.runtime.ledger_postgres import event_message, message_id
from mint_common.waiting import wait_for_event

RETRY_SECONDS = 0.2


class MemoryConnection:
    """A stand-in for a database connection: changes are made at the commit, or never."""

    def __init__(self) -> None:
        self.changes: list[Callable[[], None]] = []

    def at_commit(self, change: Callable[[], None]) -> None:
        """Register a change of a memory store."""
        self.changes.append(change)


class MemoryTransaction:
    """An open transaction of one cause."""

    def __init__(self, connection: MemoryConnection, cause: str, clock: Clock) -> None:
        self.connection = connection
        self.messages: list[Message] = []
        self.answered: bytes | None = None
        self._cause = cause
        self._clock = clock

    async def emit(self, *events: Event) -> None:
        """Add events to the outbox."""
        now = self._clock.now()
        self.messages += [event_message(event, cause=self._cause, now=now) for event in events]

    async def answer(self, answer: object) -> None:
        """Store a request's answer for its repeats."""
        self.answered = msgspec.json.encode(answer)


@dataclass(slots=True, kw_only=True)
class OutboxRow:
    """One event in the outbox."""

    cause: str
    message: Message
    repeats: int = 0
    published: bool = False


class MemoryLedger:
    """Inbox and outbox in memory; see `mint_common.runtime.ledger_postgres.PostgresLedger`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.rows: list[OutboxRow] = []
        self.wake = asyncio.Event()
        self._clock = clock or SystemClock()
        self._causes: set[str] = set()
        self._answers: dict[str, bytes] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def is_known(self, cause: str) -> bool:
        """Return whether a cause is committed."""
        return cause in self._causes

    @asynccontextmanager
    async def transaction(self, cause: str) -> AsyncIterator[MemoryTransaction]:
        """Open the transaction of a cause. Raises AlreadyHandled before the body runs."""
        async with self._locks.setdefault(cause, asyncio.Lock()):
            if cause in self._causes:
                raise AlreadyHandled(cause=cause)
            connection = MemoryConnection()
            transaction = MemoryTransaction(connection, cause, self._clock)
            yield transaction
            for change in connection.changes:
                change()
            self._causes.add(cause)
            if transaction.answered is not None:
                self._answers[cause] = transaction.answered
            self.rows += [OutboxRow(cause=cause, message=message) for message in transaction.messages]
            self.wake.set()

    def request(self, cause: str | None) -> AbstractAsyncContextManager[MemoryTransaction]:
        """Open the transaction of a request, which stores its answer. Raises AlreadyHandled."""
        return self.transaction(cause or new_id("req"))

    async def first_answer(self, cause: str) -> bytes | None:
        """Return the stored answer of a request."""
        return self._answers.get(cause)

    async def repeat(self, cause: str) -> None:
        """Put the events of a committed cause on the bus once more; nothing for an unknown cause."""
        for row in self.rows:
            if row.cause == cause and row.published:
                row.repeats += 1
                row.published = False
        self.wake.set()


class MemoryRelay:
    """Publishes the outbox of a memory ledger, in order."""

    def __init__(self, ledger: MemoryLedger, bus: Bus, clock: Clock) -> None:
        self._ledger = ledger
        self._bus = bus
        self._clock = clock

    async def run(self) -> None:
        """Publish until cancelled, through outages of the bus."""
        while True:
            self._ledger.wake.clear()
            try:
                await self.publish_pending()
            except Unavailable:
                await self._clock.sleep(RETRY_SECONDS)
                continue
            await wait_for_event(self._ledger.wake, clock=self._clock, seconds=1.0)

    async def publish_pending(self) -> None:
        """Publish what waits. A crash between publishing and noting it publishes again."""
        for row in [row for row in self._ledger.rows if not row.published]:
            repeats = row.repeats
            await self._bus.publish(replace(row.message, id=message_id(row.message.id, repeats)))
            row.published = row.repeats == repeats
