"""Subscriptions to NATS: a durable pull consumer, and fan-out to watchers. Both survive outages and wiped
stores.

Invariants:
- The server sends at most ``batch`` messages ahead of the reader: the next batch is requested only when
  those have been read.
- A reader that stops waiting (a timeout around `anext`) loses nothing and may continue.
"""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import ConsumerConfig, Header

from mint_common.bus.nats_connection import RETRY_SECONDS, TROUBLE, NatsConnection, unavailable
from mint_common.bus.port import Delivery, Message
from mint_common.errors import Unavailable
from mint_common.events.subjects import STREAM
from mint_common.waiting import raise_if_cancelled

PULL_SECONDS = 2.0
"""Duration of one request for messages; a restart of the server can go unnoticed for as long."""
WATCHED_IDS = 4096
WATCH_LIMIT = 10_000
"""Maximum messages that wait for a slow watcher; beyond it the watcher misses the oldest."""

_REQUEST_ENDED = ("404", "408")
_log = logging.getLogger(__name__)


class PullReader(ABC):
    """Reads a consumer's messages, at most ``batch`` ahead of the reader, however long the server is away."""

    def __init__(self, connection: NatsConnection, *, consumer: str, batch: int) -> None:
        self._connection = connection
        self._consumer = consumer
        self._batch = batch
        self._is_bound = False
        self._client: Client | None = None
        self._inbox: Subscription | None = None
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._owed = 0

    async def open(self) -> None:
        """Bind to the server. Raises Unavailable, and what nats-py raises in an outage."""
        await self._bind()
        self._is_bound, self._owed = True, 0

    @abstractmethod
    async def _bind(self) -> None:
        """Make the consumer and listen to an inbox."""

    async def read(self) -> Msg:
        """Return the next message. The reader is bound again after an outage."""
        while True:
            try:
                if not self._is_bound:
                    await self.open()
                raw = await self._next()
            except (*TROUBLE, Unavailable) as error:
                raise_if_cancelled()
                _log.info("reader is bound again", extra={"problem": str(error)})
                self._is_bound = False
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if raw is not None:
                return raw

    async def _next(self) -> Msg | None:
        """Return a message, or None when the request for messages has ended without one."""
        if self._owed <= 0 and self._arrived.empty():
            await self._pull()
        try:
            async with asyncio.timeout(PULL_SECONDS + RETRY_SECONDS):
                raw = await self._arrived.get()
        except TimeoutError:
            self._unanswered()
            return None
        status = status_of(raw)
        if status in _REQUEST_ENDED:
            self._owed = 0
            return None
        if status:
            # 409: the consumer went away under the request; 503: it is not there.
            raise Unavailable(what="nats", problem=f"status {status} {raw.headers.get('Description', '')}")
        self._take(raw)
        return raw

    def _unanswered(self) -> None:
        """Ask again, as the server has not even said that a request for messages has ended."""
        self._owed = 0

    def _take(self, raw: Msg) -> None:  # noqa: ARG002  # for readers that expect a certain one
        """Count a message."""
        self._owed -= 1

    async def _pull(self) -> None:
        is_another = await self._connection.client() is not self._client
        client, inbox = self._client, self._inbox
        if is_another or client is None or inbox is None:
            raise Unavailable(what="nats", problem="the connection was replaced")
        request = {"batch": self._batch, "expires": int(PULL_SECONDS * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._consumer}"
        await client.publish(subject, json.dumps(request).encode(), reply=inbox.subject)
        self._owed = self._batch


class NatsDelivery:
    """One delivery of a JetStream message."""

    def __init__(self, raw: Msg) -> None:
        self._raw = raw
        self.message = read_message(raw)

    @property
    def attempt(self) -> int:
        """Return how often it has been delivered, from 1."""
        return int(self._raw.metadata.num_delivered)

    async def ack(self) -> None:
        """Never deliver it again. An answer that gets lost means one more delivery."""
        await self._answer(Msg.Ack.Ack)

    async def retry(self, *, delay_seconds: float) -> None:
        """Deliver it again after the delay."""
        delay = json.dumps({"delay": int(delay_seconds * 1e9)}).encode()
        await self._answer(Msg.Ack.Nak + b" " + delay if delay_seconds > 0 else Msg.Ack.Nak)

    async def reject(self) -> None:
        """Never deliver it again."""
        await self._answer(Msg.Ack.Term)

    async def extend(self) -> None:
        """Restart the ack wait."""
        await self._answer(Msg.Ack.Progress)

    async def _answer(self, payload: bytes) -> None:
        try:
            await self._raw._client.publish(self._raw.reply, payload)  # noqa: SLF001  (nats-py's ack() forbids extend after a lost one)
        except TROUBLE as error:
            raise unavailable(error) from error


class NatsDeliveries(PullReader):
    """The deliveries of one durable consumer, without end."""

    def __init__(self, connection: NatsConnection, config: ConsumerConfig, *, batch: int) -> None:
        super().__init__(connection, consumer=config.durable_name or "", batch=batch)
        self._config = config

    def __aiter__(self) -> "NatsDeliveries":
        return self

    async def __anext__(self) -> Delivery:
        return NatsDelivery(await self.read())

    async def _bind(self) -> None:
        """Make the consumer, and the stream before it, unless they are there; then listen."""
        client = await self._connection.client()
        await self._connection.ensure_consumer(self._config)
        if client is not self._client:
            self._inbox = await client.subscribe(client.new_inbox(), cb=self._arrived.put)
            self._client = client

    async def close(self) -> None:
        """Stop listening, and return fetched but unread messages to the server."""
        try:
            if self._inbox is not None and self._client is not None and not self._client.is_closed:
                await self._inbox.unsubscribe()
            while not self._arrived.empty():
                raw = self._arrived.get_nowait()
                if not status_of(raw):
                    await NatsDelivery(raw).retry(delay_seconds=0)
        except (*TROUBLE, Unavailable) as error:
            _log.info("deliveries not given back", extra={"problem": str(error)})


class NatsWatch:
    """Messages as they are published; a core subscription, so an absent watcher misses them.

    Repeated messages after a lost acknowledgement are dropped by their ids. ``on_gap`` is called after an
    outage, and when a slow watcher misses a message.
    """

    def __init__(
        self, connection: NatsConnection, subjects: Sequence[str], on_gap: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._on_gap = on_gap
        self._client: Client | None = None
        self._listening: list[Subscription] = []
        self._arrived: asyncio.Queue[Message] = asyncio.Queue()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __aiter__(self) -> "NatsWatch":
        return self

    async def __anext__(self) -> Message:
        while True:
            try:
                async with asyncio.timeout(PULL_SECONDS):
                    return await self._arrived.get()
            except TimeoutError:
                await self._listen_again()

    async def open(self) -> None:
        """Listen; when this returns, the server knows."""
        client = await self._connection.client()
        try:
            self._listening = [await client.subscribe(name, cb=self._arrive) for name in self._subjects]
            await client.flush()
        except TROUBLE as error:
            raise unavailable(error) from error
        self._client = client
        self._connection.on_reconnect.add(self._missed)

    async def close(self) -> None:
        """Stop listening."""
        self._connection.on_reconnect.discard(self._missed)
        try:
            if self._client is not None and not self._client.is_closed:
                for subscription in self._listening:
                    await subscription.unsubscribe()
        except TROUBLE as error:
            _log.info("watch not ended", extra={"problem": str(error)})

    def _missed(self) -> None:
        self._on_gap()

    async def _listen_again(self) -> None:
        """Subscribe on the new client, if nats-py has given the old one up."""
        if self._client is None or self._client.is_closed:
            try:
                await self.open()
            except Unavailable as error:
                raise_if_cancelled()
                _log.info("watch waits for nats", extra={"problem": str(error)})
            else:
                self._missed()

    async def _arrive(self, raw: Msg) -> None:
        message = read_message(raw)
        if message.id in self._seen:
            return
        self._seen[message.id] = None
        if len(self._seen) > WATCHED_IDS:
            self._seen.popitem(last=False)
        if self._arrived.qsize() >= WATCH_LIMIT:
            self._arrived.get_nowait()
            _log.warning("slow watcher missed a message", extra={"subjects": list(self._subjects)})
            self._missed()
        self._arrived.put_nowait(message)


def read_message(raw: Msg) -> Message:
    """Return the published message, without the headers between adapter and server."""
    headers = raw.headers or {}
    return Message(
        id=headers.get(Header.MSG_ID.value, ""),
        subject=raw.subject,
        data=raw.data,
        headers={name: value for name, value in headers.items() if not name.startswith("Nats-")},
    )


def status_of(raw: Msg) -> str:
    """Return the server's status code of a message that is not a message, else the empty text."""
    return str((raw.headers or {}).get(Header.STATUS.value, ""))
