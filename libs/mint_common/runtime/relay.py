"""The outbox relay: publishes a service's committed events, in order, through crashes and outages.

It also deletes old rows of outbox, inbox and answers, over another connection. Invariants:
- One relay at a time publishes for a schema (advisory lock); the others stand by.
- A row is marked only after the bus has stored its message, so a crash in between publishes it again.
- A row that was repeated while it was being published stays unpublished, and is published again.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg
from prometheus_client import Counter, Gauge

from mint_common.bus.port import Bus, Message
from mint_common.errors import Unavailable
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import message_id
from mint_common.runtime.periodic import prune_rows, run_periodically
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from mint_common.telemetry.series import begin
from mint_common.waiting import raise_if_cancelled, wait_for_event

POLL_SECONDS = 1.0
BATCH = 100
KEEP_DAYS = 7
KEEP_CAUSE_DAYS = 30
"""Retention of causes, longer than the stream retains messages. Past it a service's own tables must detect
a repetition."""
KEEP_ANSWER_DAYS = 2
"""Longer than the gateway keeps an Idempotency-Key."""
PRUNE_SECONDS = 600.0
BACKOFF_SECONDS = (0.1, 5.0)
MEASURE_SECONDS = 2.0
MAX_MEASURED = 10_000
"""Maximum waiting events that a measurement counts."""

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('mint_relay_' || current_schema(), 0))"
_PENDING = """
    SELECT id, event_id, subject, data, headers, repeats FROM mint_outbox
    WHERE published_at IS NULL ORDER BY id LIMIT $1
"""
_BACKLOG = """
    SELECT count(*) AS events, extract(epoch FROM now() - min(due_at))::float8 AS oldest_seconds
    FROM (SELECT due_at FROM mint_outbox WHERE published_at IS NULL ORDER BY id LIMIT $1) AS waiting
"""
_MARK = """
    UPDATE mint_outbox SET published_at = now(), refusal = published.refusal
    FROM unnest($1::bigint[], $2::integer[], $3::text[]) AS published (id, repeats, refusal)
    WHERE mint_outbox.id = published.id AND mint_outbox.repeats = published.repeats
"""
_OLD_EVENT = "published_at < now() - make_interval(days => $1)"
_OLD_ANSWER = "answered_at < now() - make_interval(days => $1)"
# A cause is remembered while its events are kept, so that it can be answered by repeating them.
_OLD_CAUSE = """
    committed_at < now() - make_interval(days => $1)
    AND NOT EXISTS (SELECT FROM mint_outbox WHERE mint_outbox.cause = mint_inbox.cause)
"""

_log = logging.getLogger(__name__)
_published = Counter(
    "mint_relay_events_total", "Events of the outbox: published, or refused by the bus", ["outcome"]
)
begin(_published, ["published", "refused"])
_waiting = Gauge(
    "mint_relay_pending", f"Events of the outbox that wait for the bus; {MAX_MEASURED} stands for more"
)
_oldest = Gauge(
    "mint_relay_oldest_seconds",
    "Seconds that the oldest of them waits, 0 without any; it grows while the database cannot be asked",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    id: int
    repeats: int
    message: Message


class OutboxRelay:
    """Publishes the outbox of the pool's schema."""

    def __init__(self, pool: asyncpg.Pool, bus: Bus, clock: Clock) -> None:
        self._pool = pool
        self._bus = bus
        self._clock = clock
        self._oldest_since: float | None = None
        self._measured_at = -math.inf
        _oldest.set_function(self._oldest_seconds)

    async def run(self) -> None:
        """Publish and prune until cancelled. Outages of the database or the bus are waited out."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_on())
            pruning = run_periodically(
                self.prune, name="prune outbox", every_seconds=PRUNE_SECONDS, clock=self._clock
            )
            group.create_task(pruning)

    async def prune(self) -> None:
        """Delete old rows of the outbox, the answers and the inbox."""
        await prune_rows(self._pool, "mint_outbox", _OLD_EVENT, KEEP_DAYS)
        await prune_rows(self._pool, "mint_answers", _OLD_ANSWER, KEEP_ANSWER_DAYS)
        await prune_rows(self._pool, "mint_inbox", _OLD_CAUSE, KEEP_CAUSE_DAYS)

    async def _publish_on(self) -> None:
        shortest, longest = BACKOFF_SECONDS
        pause = shortest
        while True:
            started = self._clock.monotonic()
            try:
                await self._serve()
            except Unavailable as error:
                raise_if_cancelled()
                _log.warning("relay interrupted", extra={"problem": str(error), "retry_seconds": pause})
            if self._clock.monotonic() - started > longest:
                pause = shortest
            await self._clock.sleep(pause)
            pause = min(2 * pause, longest)

    async def _serve(self) -> None:
        """Publish over one connection until it breaks or the bus is unavailable."""
        wake = asyncio.Event()
        async with self._listening(wake) as connection:
            await self._measure(connection)
            while not await connection.fetchval(_LOCK):
                await self._clock.sleep(POLL_SECONDS)
                await self._measure(connection)
            while True:
                wake.clear()
                while rows := await _pending(connection):
                    await self._publish(connection, rows)
                    await self._measure(connection)
                await self._measure(connection)
                await wait_for_event(wake, clock=self._clock, seconds=POLL_SECONDS)

    async def _measure(self, connection: PostgresConnection) -> None:
        """Measure what waits, if that was long ago: also while another relay publishes, or should."""
        now = self._clock.monotonic()
        if now - self._measured_at < MEASURE_SECONDS:
            return
        self._measured_at = now
        (row,) = await connection.fetch(_BACKLOG, MAX_MEASURED)
        _waiting.set(row["events"])
        oldest_seconds = row["oldest_seconds"]
        self._oldest_since = None if oldest_seconds is None else now - max(0.0, oldest_seconds)

    def _oldest_seconds(self) -> float:
        since = self._oldest_since
        return 0.0 if since is None else self._clock.monotonic() - since

    async def _publish(self, connection: PostgresConnection, rows: Sequence[_Row]) -> None:
        refusals = await self._bus.publish_in_order([row.message for row in rows])
        for row, refusal in zip(rows, refusals, strict=True):
            if refusal is not None:  # it can never be published, and must not block the rows after it
                _log.error(
                    "bus refused an event", extra={"message_id": row.message.id, "problem": str(refusal)}
                )
            _published.labels("published" if refusal is None else "refused").inc()
        reasons = [None if refusal is None else str(refusal) for refusal in refusals]
        await connection.execute(_MARK, [row.id for row in rows], [row.repeats for row in rows], reasons)

    @asynccontextmanager
    async def _listening(self, wake: asyncio.Event) -> AsyncIterator[PostgresConnection]:
        async with acquired(self._pool) as connection:
            channel = "mint_outbox_" + await connection.fetchval("SELECT current_schema()")
            # Losing the mark in a power failure only republishes, so do not wait for the disk.
            await connection.execute("SET synchronous_commit = off")
            await connection.add_listener(channel, lambda *_: wake.set())
            try:
                yield connection
            finally:
                # A connection that has listened is not for the pool's others, and a broken one may not know.
                with suppress(asyncpg.InterfaceError):
                    connection.terminate()


async def _pending(connection: PostgresConnection) -> Sequence[_Row]:
    return [
        _Row(
            id=row["id"],
            repeats=row["repeats"],
            message=Message(
                id=message_id(row["event_id"], row["repeats"]),
                subject=row["subject"],
                data=row["data"],
                headers=row["headers"],
            ),
        )
        for row in await connection.fetch(_PENDING, BATCH)
    ]
