"""The ledger, inbox and outbox of one service: `mint_inbox`, `mint_outbox` and `mint_answers` in its schema.

Invariants:
- A cause (the id of an event or of a request) is committed at most once. Repeating it repeats the events of
  the first time, so a lost message is repaired by repeating any earlier one.
- The first answer to a repeatable request is committed with its changes.
- Events become visible on the bus only after the rows that they describe are committed.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import msgspec

from mint_common.bus.port import Message
from mint_common.errors import AlreadyHandled
from mint_common.events.codec import encode
from mint_common.events.event import Event
from mint_common.ids import new_id
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from mint_common.telemetry.tracing import inject

NOTIFY = "SELECT pg_notify('mint_outbox_' || current_schema(), '')"
"""Wakes the relay of this schema when the transaction commits."""

_KNOWN = "SELECT 1 FROM mint_inbox WHERE cause = $1"
# A second holder of a cause waits here until the first one commits (then: no row) or rolls back.
_TAKE = "INSERT INTO mint_inbox (cause) VALUES ($1) ON CONFLICT DO NOTHING RETURNING cause"
_EMIT = f"""
    WITH told AS (
        INSERT INTO mint_outbox (cause, event_id, subject, data, headers) VALUES ($1, $2, $3, $4, $5)
    ) {NOTIFY}
"""  # noqa: S608  (constants)
# An event that still waits for its first publication needs no second one.
_REPEAT = """
    UPDATE mint_outbox SET repeats = repeats + 1, published_at = NULL, due_at = now()
    WHERE cause = $1 AND published_at IS NOT NULL
"""
_ANSWER = "INSERT INTO mint_answers (cause, answer) VALUES ($1, $2)"
_FIRST_ANSWER = "SELECT answer FROM mint_answers WHERE cause = $1"


class PostgresTransaction:
    """An open transaction: the service's own rows through ``connection``, its events through `emit`.

    ``is_repeatable``: of a request that may be repeated.
    """

    def __init__(
        self, connection: PostgresConnection, cause: str, clock: Clock, *, is_repeatable: bool = False
    ) -> None:
        self.connection = connection
        self._cause = cause
        self._clock = clock
        self._is_repeatable = is_repeatable

    async def answer(self, answer: object) -> None:
        """Store a request's answer for its repeats. Call once."""
        if self._is_repeatable:
            await self.connection.execute(_ANSWER, self._cause, msgspec.json.encode(answer))

    async def emit(self, *events: Event) -> None:
        """Add events to the outbox, with cause and trace; they go out in order after the commit."""
        for event in events:
            message = event_message(event, cause=self._cause, now=self._clock.now())
            await self.connection.execute(
                _EMIT, self._cause, event.id, message.subject, message.data, dict(message.headers)
            )


class PostgresLedger:
    """Inbox and outbox in one schema. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def is_known(self, cause: str) -> bool:
        """Return whether a cause is committed."""
        return await self._pool.fetchval(_KNOWN, cause) is not None

    def transaction(self, cause: str) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a transaction for a cause; it commits on a clean exit and rolls back on an exception.

        Raises AlreadyHandled, before the body runs, when the cause is committed already (a concurrent holder
        of the same cause is waited for).
        """
        return self._open(cause, is_repeatable=False)

    def request(self, cause: str | None) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open the transaction of a request, which stores its answer; None: the request is not repeatable.

        Raises AlreadyHandled before the body runs: then there is a `first_answer`.
        """
        return self._open(cause or new_id("req"), is_repeatable=cause is not None)

    async def first_answer(self, cause: str) -> bytes | None:
        """Return the stored answer of a request as JSON, for two days; None if there is none."""
        answer: bytes | None = await self._pool.fetchval(_FIRST_ANSWER, cause)
        return answer

    @asynccontextmanager
    async def _open(self, cause: str, *, is_repeatable: bool) -> AsyncIterator[PostgresTransaction]:
        async with acquired(self._pool) as connection, connection.transaction():
            if await connection.fetchval(_TAKE, cause) is None:
                raise AlreadyHandled(cause=cause)
            yield PostgresTransaction(connection, cause, self._clock, is_repeatable=is_repeatable)

    async def repeat(self, cause: str) -> None:
        """Put the events of a committed cause on the bus once more, past the bus's deduplication."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(_REPEAT, cause)
            await connection.execute(NOTIFY)


def event_message(event: Event, *, cause: str, now: float, repeats: int = 0) -> Message:
    """Return the message of an event, under the current trace.

    The message id is the event id, so the bus drops copies; a wanted repetition counts in ``repeats`` and
    has an id of its own, while the envelope stays the same.
    """
    return Message(
        id=message_id(event.id, repeats),
        subject=event.subject,
        data=encode(event, cause=cause, now=now),
        headers=inject({}),
    )


def message_id(event_id: str, repeats: int) -> str:
    """Return the bus's deduplication id of the given repetition."""
    return event_id if repeats == 0 else f"{event_id}.{repeats}"
