"""A connection to NATS that recovers from every outage, and its stream.

nats-py reconnects by itself, but closes permanently on some answers of the server (a refused sign-in while it
restarts); a new client then replaces the old one.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from mint_common.errors import Unavailable, plain_problem
from mint_common.events.subjects import STREAM, STREAM_SUBJECTS, grown
from mint_common.waiting import raise_if_cancelled

T = TypeVar("T")

CONNECT_SECONDS = 15.0
"""Time that an operation waits for the server to return before it raises Unavailable."""
PING_SECONDS = 2
"""Interval of pings. A silent link is given up after three of them, and the client takes another server."""
REQUEST_SECONDS = 5.0
RETRY_SECONDS = 0.25
DEDUPE_SECONDS = 120.0
KEEP_SECONDS = timedelta(days=7).total_seconds()

TROUBLE = (nats.errors.Error, OSError, TimeoutError)
"""Errors that nats-py raises while the server, the stream or a consumer is away."""

_NO_ANSWER = (
    TimeoutError,
    nats.errors.NoRespondersError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
)
"""Errors of a server without a leader, as during an election."""

_BETWEEN = re.compile(r",(?=\s*[a-z]+://)")
"""A password may have commas, too."""

_log = logging.getLogger(__name__)


class NatsConnection:
    """The client of one process."""

    def __init__(self, url: str, *, name: str, replicas: int = 1) -> None:
        self._servers = [server.strip() for server in _BETWEEN.split(url)]
        self._replicas = replicas
        self._name = name
        self.on_reconnect: set[Callable[[], None]] = set()
        """Called when the client is connected again, and the server has its subscriptions."""
        self._client: Client | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def client(self) -> Client:
        """Return a connected client; a new one if the old one has given up. Raises Unavailable."""
        if self._client is not None and self._client.is_connected:
            return self._client
        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._lock:
                return await self._connected()
        except TROUBLE as error:
            raise unavailable(error) from error

    async def jetstream(self) -> JetStreamContext:
        """Return the JetStream API of a connected client. Raises Unavailable."""
        return (await self.client()).jetstream(timeout=REQUEST_SECONDS)

    async def through_elections(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Call ``ask`` and return its result; retry for `CONNECT_SECONDS` while the cluster has no leader.

        ``ask`` must be safe to repeat. Raises Unavailable, also for other errors of nats-py.
        """
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        while True:
            try:
                return await ask()
            except TROUBLE as error:
                raise_if_cancelled()
                is_over = asyncio.get_running_loop().time() > deadline
                if is_over or not isinstance(error, _NO_ANSWER):
                    raise unavailable(error) from error
            await asyncio.sleep(RETRY_SECONDS)

    async def ensure_stream(self) -> None:
        """Create the stream or update it; an operator's limits stay, and more replicas than configured."""
        jetstream = await self.jetstream()
        try:
            found = (await jetstream.stream_info(STREAM)).config
        except nats.js.errors.NotFoundError:
            config = StreamConfig(name=STREAM, num_replicas=self._replicas, **_promises())
            await jetstream.add_stream(config)
            _log.info("stream made", extra={"stream": STREAM, "replicas": self._replicas})
        else:
            wanted = {**_promises(), "num_replicas": max(found.num_replicas or 1, self._replicas)}
            if any(getattr(found, name) != value for name, value in wanted.items()):
                await jetstream.update_stream(found.evolve(**wanted))
        raise_if_cancelled()

    async def ensure_consumer(self, config: ConsumerConfig) -> None:
        """Create or update a consumer, after the stream. Equal settings change nothing.

        Its start cannot be changed. Its subjects only grow: during an upgrade an older replica binds to it
        too.
        """
        await self.ensure_stream()
        jetstream = await self.jetstream()
        try:
            found = (await jetstream.consumer_info(STREAM, config.durable_name or "")).config
        except nats.js.errors.NotFoundError:
            found = ConsumerConfig(deliver_policy=config.deliver_policy)
        subjects = grown(filters_of(found), config.filter_subjects or ())
        merged = config.evolve(filter_subjects=subjects, deliver_policy=found.deliver_policy)
        await jetstream.add_consumer(STREAM, merged)
        raise_if_cancelled()

    async def close(self) -> None:
        """Flush and disconnect for good. Idempotent."""
        self._closed = True
        client, self._client = self._client, None
        if client is None or client.is_closed:
            return
        try:
            if client.is_connected:
                await client.flush(timeout=2)
        except TROUBLE as error:
            _log.debug("flush failed", extra={"problem": str(error)})
        finally:
            await client.close()

    async def _connected(self) -> Client:
        while not self._closed:
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            if self._client.is_connected:
                return self._client
            # The client reconnects by itself; it has no event that also covers giving up.
            await asyncio.sleep(0.05)
        raise Unavailable(what="nats", problem="this connection was closed")

    async def _connect(self) -> Client:
        client = Client()
        try:
            await client.connect(
                self._servers,
                name=self._name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RETRY_SECONDS,
                connect_timeout=2,
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2,
                error_cb=_log_trouble,
                reconnected_cb=self._reconnected,
            )
        except BaseException:
            await client.close()
            raise
        return client

    async def _reconnected(self) -> None:
        for call in tuple(self.on_reconnect):
            call()


def unavailable(error: BaseException) -> Unavailable:
    """Return what to raise for an outage."""
    return Unavailable(what="nats", problem=plain_problem(error))


async def _log_trouble(error: Exception) -> None:
    _log.debug("nats connection trouble", extra={"problem": str(error) or type(error).__name__})


def _promises() -> dict[str, object]:
    """Return the stream settings that the bus port's promises rest on."""
    return {
        "subjects": [STREAM_SUBJECTS],
        "retention": RetentionPolicy.LIMITS,
        "storage": StorageType.FILE,
        "discard": DiscardPolicy.OLD,
        "max_age": KEEP_SECONDS,
        "duplicate_window": DEDUPE_SECONDS,
    }


def filters_of(config: ConsumerConfig) -> set[str]:
    """Return a consumer's subjects; the server stores a single one in another field."""
    return {*(config.filter_subjects or ()), *([config.filter_subject] if config.filter_subject else ())}
