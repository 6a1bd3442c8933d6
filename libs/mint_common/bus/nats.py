"""The bus on NATS JetStream: one stream for all subjects, one durable pull consumer per subscription.

When the server has lost its data, the first client that misses the stream or consumer creates it again; the
services repeat the lost messages from Postgres. Dispatch, not the server, bounds the attempts.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import nats.errors
import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header

from mint_common.bus.nats_connection import (
    KEEP_SECONDS,
    RETRY_SECONDS,
    TROUBLE,
    NatsConnection,
    filters_of,
    unavailable,
)
from mint_common.bus.nats_replay import NatsReplay
from mint_common.bus.nats_subscription import NatsDeliveries, NatsWatch
from mint_common.bus.port import Delivery, Message, Start
from mint_common.errors import EventInvalid, Unavailable
from mint_common.events.subjects import STREAM
from mint_common.waiting import raise_if_cancelled

PUBLISH_SECONDS = 10.0
ACK_SECONDS = 2.5
"""Time limit for the server to store a message; a message sent into a dying connection costs it once."""
MAX_IN_FLIGHT = 100
"""Maximum messages sent before the first of them is acknowledged: a relay's batch. A cluster writes them to
disk together."""
MAX_UNANSWERED = 10_000


async def connect_nats(url: str, *, name: str, replicas: int = 1) -> "NatsBus":
    """Connect to one of the comma-separated addresses, and create the stream with so many replicas.

    Raises Unavailable when no server answers in time, or the cluster cannot hold as many replicas.
    """
    connection = NatsConnection(url, name=name, replicas=replicas)
    try:
        await connection.through_elections(connection.ensure_stream)
    except Unavailable:
        await connection.close()
        raise
    return NatsBus(connection)


class NatsBus:
    """See `mint_common.bus.port.Bus`."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    async def publish(self, message: Message) -> None:
        """Publish and wait until it is on the server's disk.

        Tries again for a while, which the id makes harmless; then raises Unavailable. Raises EventInvalid for
        a message that the server never takes.
        """
        (refusal,) = await self.publish_in_order([message])
        if refusal is not None:
            raise refusal

    async def publish_in_order(self, messages: Sequence[Message]) -> list[EventInvalid | None]:
        """Publish with up to `MAX_IN_FLIGHT` unacknowledged, and wait until all are on the server's disk.

        After a failure, it and all that were sent after it are sent again. Another order is possible only
        when a cluster elects a leader: the old one may refuse a message, and the new one take the next.
        """
        refusals: list[EventInvalid | None] = []
        problem: BaseException | None = None
        clock = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PUBLISH_SECONDS) as limit:
                while len(refusals) < len(messages):
                    sent = messages[len(refusals) : len(refusals) + MAX_IN_FLIGHT]
                    outcomes = await asyncio.gather(*map(self._publish, sent), return_exceptions=True)
                    raise_if_cancelled()
                    for outcome in outcomes:
                        if outcome is None or isinstance(outcome, EventInvalid):
                            refusals.append(outcome)
                            limit.reschedule(clock.time() + PUBLISH_SECONDS)
                        elif isinstance(outcome, TROUBLE):
                            problem = outcome
                            await asyncio.sleep(RETRY_SECONDS)
                            break
                        else:
                            raise outcome
        except TimeoutError as error:
            raise unavailable(problem or error) from error
        return refusals

    async def _publish(self, message: Message) -> None:
        """Publish once. Raises what nats-py raises, and EventInvalid for a message that is too large."""
        jetstream = await self._connection.jetstream()
        headers = {**message.headers, Header.MSG_ID.value: message.id}
        try:
            await jetstream.publish(
                message.subject, message.data, timeout=ACK_SECONDS, stream=STREAM, headers=headers
            )
        except nats.errors.MaxPayloadError as error:
            raise EventInvalid(type=message.subject, problem="too large for the bus") from error
        except nats.js.errors.NoStreamResponseError:
            await self._connection.ensure_stream()
            raise
        raise_if_cancelled()

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
        """Open the durable pull consumer of that name."""
        name = _consumer_name(durable)
        config = ConsumerConfig(
            name=name,
            durable_name=name,
            filter_subjects=sorted(set(subjects)),
            deliver_policy=DeliverPolicy.ALL if start == "oldest" else DeliverPolicy.NEW,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_seconds,
            max_deliver=-1,
            max_ack_pending=MAX_UNANSWERED,
            # A subscriber that was away for longer finds no message that it has missed.
            inactive_threshold=KEEP_SECONDS,
        )
        deliveries = NatsDeliveries(self._connection, config, batch=batch)
        await self._connection.through_elections(deliveries.open)
        try:
            yield deliveries
        finally:
            await deliveries.close()

    async def oldest_waiting(self, *, durable: str) -> float | None:
        """Return the time of the first message after the consumer's position that its filters match."""
        try:
            jetstream = await self._connection.jetstream()
            info = await jetstream.consumer_info(STREAM, _consumer_name(durable))
            behind = info.delivered.stream_seq + 1 if info.delivered and info.num_pending else None
            found: list[float] = []
            for subject in filters_of(info.config) if behind else ():
                with suppress(nats.js.errors.NotFoundError):
                    message = await jetstream.get_msg(STREAM, seq=behind, subject=subject, next=True)
                    found += [message.time.timestamp()] if message.time else []
        except nats.js.errors.NotFoundError:
            return None
        except TROUBLE as error:
            raise unavailable(error) from error
        return min(found, default=None)

    @asynccontextmanager
    async def watch(
        self, *, subjects: Sequence[str], on_gap: Callable[[], None] = lambda: None
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Receive every message from now on."""
        watch = NatsWatch(self._connection, subjects, on_gap)
        await watch.open()
        try:
            yield watch
        finally:
            await watch.close()

    @asynccontextmanager
    async def replay(self, *, subjects: Sequence[str], after: str | None) -> AsyncIterator[NatsReplay]:
        """Read after a place."""
        replay = NatsReplay(self._connection, subjects)
        await self._connection.through_elections(lambda: replay.start(after))
        try:
            yield replay
        finally:
            await replay.close()

    async def close(self) -> None:
        """Flush and disconnect. Idempotent."""
        await self._connection.close()


def _consumer_name(durable: str) -> str:
    """Return the name with what NATS forbids (dots, spaces, ...) escaped, so that no two names meet."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda found: f"={ord(found[0]):02X}", durable)
