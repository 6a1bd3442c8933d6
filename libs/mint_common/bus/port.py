"""The message bus port: durable at-least-once delivery, nothing more.

Promises of every adapter (checked by `tests/contract/test_bus.py`):
- `publish` returns when the message is durable; a second message with the same id within the adapter's
  deduplication window is dropped silently. `publish_in_order` does the same for many.
- A durable subscription delivers every message published to its subjects since it was created, also while no
  subscriber was connected. Before them it delivers the messages that the bus still stores (a week), unless it
  was created to start with new ones. A message is delivered again until it is acked or rejected.
- Order: first deliveries follow publish order within a subscription.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mint_common.errors import EventInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Bytes with a subject, an id for deduplication and text headers (trace context)."""

    id: str
    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Delivery(Protocol):
    """One delivery of a message to one subscriber; exactly one of ack, retry and reject ends it."""

    @property
    def message(self) -> Message:
        """Return the message."""
        ...

    @property
    def attempt(self) -> int:
        """Return how often it has been delivered, from 1."""
        ...

    async def ack(self) -> None:
        """Never deliver it again."""
        ...

    async def retry(self, *, delay_seconds: float) -> None:
        """Deliver it again after the delay."""
        ...

    async def reject(self) -> None:
        """Never deliver it again: it cannot be handled."""
        ...

    async def extend(self) -> None:
        """Restart the time after which an unanswered delivery is repeated: the work continues."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMessage:
    """A message and its position in the log, to resume reading after it."""

    place: str
    message: Message


class Replay(Protocol):
    """The messages after a position, each once and in order, then new ones as they arrive.

    Raises EventsExpired when some of them are no longer retained.
    """

    @property
    def place(self) -> str:
        """Return the place after the last message that was read; at first where reading begins."""
        ...

    def __aiter__(self) -> "Replay":
        """Return itself."""
        ...

    async def __anext__(self) -> PlacedMessage:
        """Wait for the next message."""
        ...


class EventLog(Protocol):
    """The messages that the bus retains (a week), for readers that store their own position."""

    def replay(self, *, subjects: Sequence[str], after: str | None) -> AbstractAsyncContextManager[Replay]:
        """Open a reading after a place; None: from now on. Raises EventsExpired, Unavailable."""
        ...


Start = Literal["oldest", "new"]
"""First message of a new subscription: the oldest retained one, or the next one published."""


class Bus(Protocol):
    """A connection to the bus; safe for concurrent use. Raises Unavailable when the bus stays away."""

    async def publish(self, message: Message) -> None:
        """Store a message durably. Raises EventInvalid for a message that the bus never takes."""
        ...

    async def publish_in_order(self, messages: Sequence[Message]) -> list[EventInvalid | None]:
        """Store messages durably, in order. Returns for each why the bus never takes it, or None.

        When it raises Unavailable, some are stored; publishing all of them again is harmless.
        """
        ...

    def subscribe(
        self,
        *,
        durable: str,
        subjects: Sequence[str],
        ack_wait_seconds: float = 30.0,
        batch: int = 1,
        start: Start = "oldest",
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Open the durable subscription of that name; subscribers of one name share its messages.

        At most ``batch`` deliveries are sent ahead of the reader. ``start`` is the first message of a new
        subscription: the oldest retained or the next one.
        """
        ...

    async def oldest_waiting(self, *, durable: str) -> float | None:
        """Return the publication time of the oldest undelivered message of a durable subscription.

        None: none waits, or there is no such subscription. Seconds since the epoch, by the bus's clock.
        """
        ...

    def watch(
        self, *, subjects: Sequence[str], on_gap: Callable[[], None] = lambda: None
    ) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Open a fan-out subscription: all see each message published from now on, at most once.

        ``on_gap`` is called when messages may have been missed, once it is open again.
        """
        ...

    async def close(self) -> None:
        """Flush and disconnect. Idempotent."""
        ...
