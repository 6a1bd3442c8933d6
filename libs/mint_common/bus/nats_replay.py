"""Read the stream from a position, for a reader that stores its own position: an ordered consumer.

Invariants:
- Every message after the position is delivered once and in order, through outages of the server; lost
  messages are fetched again from the last position that was read.
- If that is impossible (the messages or the whole store are gone), reading ends with EventsExpired.
- At most `BATCH` messages are in flight to a reader that does not read.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

from mint_common.bus.nats_connection import TROUBLE, NatsConnection
from mint_common.bus.nats_subscription import PullReader, read_message
from mint_common.bus.port import PlacedMessage
from mint_common.errors import EventsExpired, Unavailable
from mint_common.events.subjects import STREAM
from mint_common.ids import new_id
from mint_common.waiting import raise_if_cancelled

BATCH = 64
IDLE_SECONDS = 60.0
"""Time after which the server drops the consumer of a reader that stopped fetching."""

_log = logging.getLogger(__name__)


class NatsReplay(PullReader):
    """See `mint_common.bus.port.EventLog.replay`."""

    def __init__(self, connection: NatsConnection, subjects: Sequence[str]) -> None:
        super().__init__(connection, consumer="", batch=BATCH)
        self._subjects = sorted(set(subjects))
        self._epoch = ""
        self._position = 0
        self._taken = 0

    @property
    def place(self) -> str:
        """Return the place after the last message that was read."""
        return f"{self._epoch}-{self._position}"

    async def start(self, after: str | None) -> None:
        """Take a place, now or the given one, and make sure that nothing after it is gone."""
        info = await self._stream()
        self._epoch = _epoch_of(info)
        if after is None:
            self._position = info.state.last_seq
        else:
            epoch, _, position = after.partition("-")
            if epoch != self._epoch or not (position.isascii() and position.isdecimal()):
                raise EventsExpired(place=after[:100])
            self._position = int(position)
        await self.open()

    def __aiter__(self) -> "NatsReplay":
        return self

    async def __anext__(self) -> PlacedMessage:
        raw = await self.read()
        return PlacedMessage(place=self.place, message=read_message(raw))

    async def close(self) -> None:
        """Stop listening."""
        try:
            await self._let_go()
        except (*TROUBLE, Unavailable) as error:
            _log.debug("replay not ended", extra={"problem": str(error)})

    async def _stream(self) -> StreamInfo:
        await self._connection.ensure_stream()
        info: StreamInfo = await (await self._connection.jetstream()).stream_info(STREAM)
        raise_if_cancelled()
        return info

    async def _bind(self) -> None:
        """Make a consumer that begins after the place. Raises EventsExpired when that is not possible."""
        info = await self._stream()
        if _epoch_of(info) != self._epoch or not (
            info.state.first_seq - 1 <= self._position <= info.state.last_seq
        ):
            raise EventsExpired(place=self.place)
        await self._let_go()
        client, name = await self._connection.client(), new_id("replay")
        self._arrived = asyncio.Queue()
        self._inbox = await client.subscribe(client.new_inbox(), cb=self._arrived.put)
        config = ConsumerConfig(
            name=name,
            filter_subjects=self._subjects,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._position + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=IDLE_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        await (await self._connection.jetstream()).add_consumer(STREAM, config)
        raise_if_cancelled()
        self._client, self._consumer, self._taken = client, name, 0

    async def _let_go(self) -> None:
        """Unsubscribe and delete the consumer, if the connection is still the same."""
        inbox, name, client = self._inbox, self._consumer, self._client
        self._inbox, self._consumer = None, ""
        if client is None or not client.is_connected:
            return
        if inbox is not None:
            await inbox.unsubscribe()
        if name:
            # No need to wait for the answer: the server removes an idle consumer.
            await client.publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}", b"")

    def _unanswered(self) -> None:
        """Raise Unavailable: a new consumer is made, once the place has been checked again."""
        raise Unavailable(what="nats", problem="no answer to a request for messages")

    def _take(self, raw: Msg) -> None:
        """Count a message. Raises Unavailable when it is not the next one."""
        super()._take(raw)
        sequence = raw.metadata.sequence
        if sequence.consumer != self._taken + 1:
            raise Unavailable(what="nats", problem="a message was lost in transit")
        self._taken, self._position = sequence.consumer, sequence.stream


def _epoch_of(info: StreamInfo) -> str:
    """Return the id that distinguishes this stream from one created after its store was lost."""
    created = info.created or datetime.fromtimestamp(0, UTC)
    return format(int(created.timestamp() * 1000), "x")
