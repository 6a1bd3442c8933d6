"""The bus in memory: for tests, with the promises of the real one and an adjustable clock.

It outlives a simulated crash of its users: an unanswered message is delivered again after its ack wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from mint_common.bus.port import Delivery, Message, PlacedMessage, Start
from mint_common.errors import EventInvalid, EventsExpired, Unavailable
from mint_common.events.subjects import covers
from mint_common.runtime.clock import Clock
from mint_common.waiting import wait_for_event

DEDUPE_SECONDS = 120.0


class MemoryBus:
    """A stream of messages and its durable subscriptions; see `mint_common.bus.port.Bus`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stream: list[Message] = []
        self._published_at: list[float] = []
        self._seen: dict[str, float] = {}
        self._consumers: dict[str, _Consumer] = {}
        self._watchers: list[tuple[Sequence[str], asyncio.Queue[Message]]] = []
        self._readers: list[asyncio.Event] = []
        self._closed = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return every message that was stored, oldest first."""
        return tuple(self._stream)

    async def publish(self, message: Message) -> None:
        """Store a message, unless its id was stored a moment ago."""
        if self._closed:
            raise Unavailable(what="bus", problem="closed")
        now = self._clock.monotonic()
        if now - self._seen.get(message.id, float("-inf")) < DEDUPE_SECONDS:
            return
        self._seen[message.id] = now
        self._stream.append(message)
        self._published_at.append(self._clock.now())
        for consumer in self._consumers.values():
            consumer.wake.set()
        for reader in self._readers:
            reader.set()
        for subjects, queue in self._watchers:
            if _matches_any(subjects, message.subject):
                queue.put_nowait(message)

    async def publish_in_order(self, messages: Sequence[Message]) -> list[EventInvalid | None]:
        """Store messages; return for each why it is refused, or None."""
        refusals: list[EventInvalid | None] = []
        for message in messages:
            try:
                await self.publish(message)
            except EventInvalid as error:
                refusals.append(error)
            else:
                refusals.append(None)
        return refusals

    @asynccontextmanager
    async def subscribe(
        self,
        *,
        durable: str,
        subjects: Sequence[str],
        ack_wait_seconds: float = 30.0,
        batch: int = 1,
        start: Start = "oldest",
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        """Open a durable subscription."""
        begin = 0 if start == "oldest" else len(self._stream)
        consumer = self._consumers.setdefault(durable, _Consumer(self._stream, self._clock, begin))
        consumer.subjects = tuple({*consumer.subjects, *subjects})
        consumer.ack_wait_seconds = ack_wait_seconds
        yield _Deliveries(consumer)

    async def oldest_waiting(self, *, durable: str) -> float | None:
        """Return when the oldest message was published that was not handed out."""
        consumer = self._consumers.get(durable)
        position = None if consumer is None else consumer.next_position()
        return None if position is None else self._published_at[position]

    @asynccontextmanager
    async def watch(
        self,
        *,
        subjects: Sequence[str],
        on_gap: Callable[[], None] = lambda: None,  # it misses nothing
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """See every message from now on."""
        watcher = (tuple(subjects), asyncio.Queue[Message]())
        self._watchers.append(watcher)
        try:
            yield _Watch(watcher[1])
        finally:
            self._watchers.remove(watcher)

    @asynccontextmanager
    async def replay(self, *, subjects: Sequence[str], after: str | None) -> AsyncIterator["_Replay"]:
        """Read after a place; a place is how many messages there were."""
        position = len(self._stream) if after is None else _position_of(after)
        if not 0 <= position <= len(self._stream):
            raise EventsExpired(place=str(after)[:100])
        wake = asyncio.Event()
        self._readers.append(wake)
        try:
            yield _Replay(self._stream, tuple(subjects), position, wake)
        finally:
            self._readers.remove(wake)

    async def close(self) -> None:
        """Refuse later messages."""
        self._closed = True


class _Consumer:
    """State of one durable subscription."""

    def __init__(self, stream: Sequence[Message], clock: Clock, begin: int) -> None:
        self.subjects: Sequence[str] = ()
        self.ack_wait_seconds = 30.0
        self.wake = asyncio.Event()
        self.clock = clock
        self.due: dict[int, float] = {}
        """Position in the stream -> when it is delivered again, for deliveries that are not ended."""
        self._stream = stream
        self._position = begin
        self._attempts: dict[int, int] = {}

    def take(self) -> "_MemoryDelivery | None":
        """Return the next delivery: one that is due again, else the next new one."""
        now = self.clock.monotonic()
        position = min((at for at, due in self.due.items() if due <= now), default=None)
        if position is None:
            position = self.next_position()
            if position is None:
                return None
            self._position = position + 1
        self._attempts[position] = self._attempts.get(position, 0) + 1
        self.due[position] = now + self.ack_wait_seconds
        return _MemoryDelivery(self, position, self._stream[position], self._attempts[position])

    def next_position(self) -> int | None:
        """Return where the next message is that was never delivered."""
        while self._position < len(self._stream):
            if _matches_any(self.subjects, self._stream[self._position].subject):
                return self._position
            self._position += 1
        return None

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        if not self.due:
            await self.wake.wait()
            return
        seconds = min(self.due.values()) - self.clock.monotonic()
        await wait_for_event(self.wake, clock=self.clock, seconds=seconds)


class _Deliveries:
    def __init__(self, consumer: _Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> "_Deliveries":
        return self

    async def __anext__(self) -> Delivery:
        while True:
            self._consumer.wake.clear()
            delivery = self._consumer.take()
            if delivery is not None:
                return delivery
            await self._consumer.wait()


class _MemoryDelivery:
    def __init__(self, consumer: _Consumer, position: int, message: Message, attempt: int) -> None:
        self._consumer = consumer
        self._position = position
        self.message = message
        self.attempt = attempt

    async def ack(self) -> None:
        self._consumer.due.pop(self._position, None)

    async def retry(self, *, delay_seconds: float) -> None:
        self._again_after(delay_seconds)
        self._consumer.wake.set()

    async def reject(self) -> None:
        await self.ack()

    async def extend(self) -> None:
        self._again_after(self._consumer.ack_wait_seconds)

    def _again_after(self, seconds: float) -> None:
        if self._position in self._consumer.due:
            self._consumer.due[self._position] = self._consumer.clock.monotonic() + seconds


class _Watch:
    def __init__(self, queue: asyncio.Queue[Message]) -> None:
        self._queue = queue

    def __aiter__(self) -> "_Watch":
        return self

    async def __anext__(self) -> Message:
        return await self._queue.get()


class _Replay:
    def __init__(
        self, stream: Sequence[Message], subjects: Sequence[str], position: int, wake: asyncio.Event
    ) -> None:
        self._stream = stream
        self._subjects = subjects
        self._position = position
        self._wake = wake

    @property
    def place(self) -> str:
        return f"memory-{self._position}"

    def __aiter__(self) -> "_Replay":
        return self

    async def __anext__(self) -> PlacedMessage:
        while True:
            self._wake.clear()
            while self._position < len(self._stream):
                self._position += 1
                message = self._stream[self._position - 1]
                if _matches_any(self._subjects, message.subject):
                    return PlacedMessage(place=self.place, message=message)
            await self._wake.wait()


def _position_of(place: str) -> int:
    name, _, position = place.partition("-")
    return int(position) if name == "memory" and position.isascii() and position.isdecimal() else -1


def _matches_any(filters: Sequence[str], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in filters)
