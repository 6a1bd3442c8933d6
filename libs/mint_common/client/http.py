"""Calls between services: JSON over HTTP, traced, with errors that keep their class.

A `MintError` raised by the peer is raised here as the same class; a connection that fails or stays
silent is Unavailable, and a bug of the peer is PeerFailed. Nothing is retried here: only the caller knows
whether a retry is safe.

A short call has a time-out, and a bounded pool of connections. A long call, whose answer may take minutes,
ends when its connection breaks or its peer stops answering (`PeerWatch`); long calls use no connection of
short ones, and are limited by their admission.
"""

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from yarl import URL

from mint_common.client.connections import Connections
from mint_common.client.peer_watch import ASK_SECONDS, PeerWatch
from mint_common.client.relayed import Relayed
from mint_common.errors import (
    InternalTokenRefused,
    MintError,
    NotFound,
    PeerFailed,
    RemoteError,
    RemoteRefusal,
    Unavailable,
    error_from_payload,
    has_class,
    plain_problem,
)
from mint_common.telemetry.tracing import inject, span, start_span

INTERNAL_TOKEN_HEADER = "x-mint-internal-token"  # noqa: S105  # the header's name, not a token

MSGPACK = "application/msgpack"
T = TypeVar("T")
_JSON = {"content-type": "application/json"}

Params = Mapping[str, str | int | float | bool | None]
Json = Any  # whatever the other side answered; the typed clients above this one convert it

_log = logging.getLogger(__name__)

Lost = Callable[[bool], MintError]
"""Makes the error of a broken connection; True: the other side may have begun with what it was asked."""
_MAX_NAME = 500
"""Longer than any valid name; a longer path segment would exceed what servers accept."""


def path_of(*parts: str | int) -> str:
    """Return an absolute path of some parts, each quoted, so that no name can step out of its place."""
    return "".join("/" + _quoted(str(part)) for part in parts)


def named(kind: str, name: str) -> str:
    """Return a name that a path can carry. Raises NotFound for one that a path cannot represent."""
    if not name or "/" in name or not name.isprintable() or len(name) > _MAX_NAME:
        raise NotFound(kind=kind, name=shortened(name))
    return name


def shortened(name: str) -> str:
    """Return the form of an overlong name for an error."""
    return name if len(name) <= _MAX_NAME else f"{name[:50]}... ({len(name)} characters)"


class InternalHttp:
    """A pool of connections to one service; end it with ``close`` or ``async with``."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str,
        peer: str = "another service",
        lost: Lost | None = None,
        timeout_seconds: float = 30,
        ask_seconds: float = ASK_SECONDS,
    ) -> None:
        """Connect later.

        Errors call the other side ``peer``: they go on to users, whom its address is not for. The log has it.
        ``lost`` makes the error of a connection that breaks or is refused, where one is more exact.
        ``ask_seconds`` is how often the other side is asked whether it lives, while long calls are open.
        """
        self._peer = peer
        self._lost = lost
        self._is_away = False
        self._base_url = base_url.rstrip("/")
        headers = {INTERNAL_TOKEN_HEADER: token}
        self._connections = Connections(headers=headers, timeout_seconds=timeout_seconds)
        self._watch = PeerWatch(self._ask_health, ask_seconds=ask_seconds)

    async def get(self, path: str, params: Params | None = None, *, is_long: bool = False) -> Json:
        """Ask for something; a None parameter is left out. ``is_long``: it is a long call."""
        return await self._ask("GET", path, params=params, is_long=is_long)

    async def post(
        self, path: str, body: object = None, params: Params | None = None, *, is_long: bool = False
    ) -> Json:
        """Create or do something; the body may be JSON values, dataclasses or structs."""
        return await self._ask("POST", path, body=body, params=params, is_long=is_long)

    async def forward(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | AsyncIterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        is_long: bool = False,
    ) -> tuple[int, bytes]:
        """Forward a request, and return the status and the bytes of its answer.

        A stream is forwarded as it arrives, in bounded memory; an answer may come before its end. An
        exception of its iterator is raised, also if the connection fails then.
        """
        url = self._url(path, query)
        if isinstance(body, bytes):
            sent = {**_JSON, **(headers or {})}
            return await self._send(method, url, data=body, headers=sent, is_long=is_long)
        told = _Told(body)
        # The other side then reads on what it need not. If it closed at once, the connection would be reset
        # before its answer to a part of the stream is read.
        sent = {"content-type": "application/octet-stream", "connection": "keep-alive", **(headers or {})}
        try:
            return await self._send(method, url, data=told.chunks(), headers=sent, is_long=True)
        except Unavailable:
            if told.error is not None:
                raise told.error from None
            raise

    async def exchange(
        self, method: str, path: str, content: bytes = b"", params: Params | None = None
    ) -> bytes:
        """Send msgpack in a long call, and return the msgpack of the answer, which its reader decodes."""
        url, headers = self._url(path, _present(params)), {"content-type": MSGPACK}
        return (await self._send(method, url, data=content, headers=headers, is_long=True))[1]

    def read(self, answer: Json, shape: type[T]) -> T:
        """Return an answer's JSON as a type. Raises PeerFailed when it is none."""
        with self._readable():
            return msgspec.convert(answer, type=shape)

    def unpack(self, answer: bytes, shape: type[T]) -> T:
        """Return an answer's msgpack as a type. Raises PeerFailed when it is none."""
        with self._readable():
            return msgspec.msgpack.decode(answer, type=shape)

    async def put(self, path: str, body: object) -> Json:
        """Set something."""
        return await self._ask("PUT", path, body=body)

    async def delete(self, path: str) -> Json:
        """Remove something."""
        return await self._ask("DELETE", path)

    async def relay(
        self, path: str, body: bytes, headers: Mapping[str, str], *, method: str = "POST"
    ) -> Relayed:
        """Send bytes unchanged, and return the answer once it has begun; the caller closes it.

        A failed answer is raised as its error.
        """
        current = start_span(f"http {method}", kind=SpanKind.CLIENT, attributes={"url.path": path})
        try:
            with trace.use_span(current, end_on_exit=False):
                async with self._call():
                    response = await self._connections.session(is_long=True).request(
                        method,
                        self._url(path),
                        data=body,
                        headers=inject({**_JSON, **headers}),
                        allow_redirects=False,
                    )
                    if not response.ok:
                        raise self._error_of(response.status, await response.read())  # noqa: TRY301
        except BaseException:
            current.set_status(Status(StatusCode.ERROR))
            current.end()
            raise
        relayed = Relayed(response, partial(self._translated, is_long=True))
        unwatch = self._watch.add(response.close)
        relayed.at_end(lambda _: unwatch())
        relayed.at_end(lambda _: current.end())
        return relayed

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._watch.close()
        await self._connections.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.close()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Params | None = None,
        is_long: bool = False,
    ) -> Json:
        url = self._url(path, _present(params))
        _, content = await self._send(method, url, data=_encode(body), headers=_JSON, is_long=is_long)
        with self._translated():
            return msgspec.json.decode(content) if content else None

    async def _send(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str],
        is_long: bool,
    ) -> tuple[int, bytes]:
        """Return a good answer's status and body; raise what any other one says."""
        with span(f"http {method}", kind=SpanKind.CLIENT, attributes={"url.path": url.path}):
            async with (
                self._call(is_long=is_long),
                self._connections.session(is_long=is_long).request(
                    method,
                    url,
                    data=data,
                    headers=inject(dict(headers)),
                    allow_redirects=False,  # another route's answer is not the one asked for
                    # A stream begins when the other side reads it: it may refuse one by its headers alone.
                    expect100=isinstance(data, AsyncIterable),
                ) as response,
            ):
                content = await response.read()
            if not 200 <= response.status < 300:
                raise self._error_of(response.status, content)
            return response.status, content

    async def _ask_health(self) -> None:
        """Return unless there is silence. Raises TimeoutError."""
        session, url = self._connections.session(is_long=False), self._url("/healthz")
        try:
            async with session.get(url, allow_redirects=False):
                pass
        except aiohttp.ClientError as error:
            if isinstance(error, TimeoutError):
                raise

    def _url(self, path: str, query: Sequence[tuple[str, str]] = ()) -> URL:
        text = f"?{urlencode(query)}" if query else ""
        return URL(f"{self._base_url}{path}{text}", encoded=True)

    @asynccontextmanager
    async def _call(self, *, is_long: bool = True) -> AsyncIterator[None]:
        with self._translated(is_long=is_long):
            if not is_long:
                yield
                return
            async with self._watch.watched():
                yield

    @contextmanager
    def _translated(self, *, is_long: bool = False) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, TimeoutError) as error:
            self._tell_outage(str(error) or type(error).__name__)
            # A connection not made in time, or a silent short call, does not show that long calls failed.
            is_wait = isinstance(error, TimeoutError) and not is_long
            if (
                self._lost is not None
                and not is_wait
                and not isinstance(error, aiohttp.ConnectionTimeoutError)
            ):
                was_sent = not isinstance(error, aiohttp.ClientConnectorError)
                raise self._lost(is_long and was_sent) from error
            raise Unavailable(what=self._peer, problem=plain_problem(error)) from error
        except msgspec.DecodeError as error:
            raise RemoteError(what=self._peer, remote_code="not_json", problem=str(error)) from error
        self._is_away = False

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except msgspec.DecodeError as error:
            raise PeerFailed(what=self._peer, status=f"what cannot be read: {error}") from error

    def _tell_outage(self, problem: str) -> None:
        """Log the first of many failures."""
        if not self._is_away:
            extra = {"peer": self._peer, "address": self._base_url, "problem": problem}
            _log.warning("a service does not answer", extra=extra)
        self._is_away = True

    def _error_of(self, status: int, content: bytes) -> MintError:
        try:
            payload = msgspec.json.decode(content, type=_ErrorAnswer).error
        except msgspec.DecodeError:
            payload = {"code": f"http_{status}", "message": "the answer is no error of MinT"}
        error = error_from_payload(payload, what=self._peer)
        if isinstance(error, InternalTokenRefused):
            # An operator's mistake between services; it must not reach a user as "your key is wrong".
            return Unavailable(what=self._peer, problem=str(error))
        if status >= 500 and isinstance(error, RemoteError):
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                return PeerFailed(what=self._peer, status=status)
            return Unavailable(what=self._peer, problem=f"it answered {status}")
        if status >= 400 and isinstance(error, RemoteError) and not has_class(str(error.remote_code)):
            # An unknown error: only its lack of retryability is known.
            return RemoteRefusal(**error.fields)
        return error


class _Told:
    """A streamed body and the error that ended it: aiohttp reports only a broken connection."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise


class _ErrorAnswer(msgspec.Struct):
    error: dict[str, Any]  # fields of any error


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _present(params: Params | None) -> Sequence[tuple[str, str]]:
    return [(name, _text(value)) for name, value in (params or {}).items() if value is not None]


def _encode(body: object) -> bytes | None:
    return None if body is None else msgspec.json.encode(body)


def _quoted(part: str) -> str:
    return part.replace(".", "%2E") if part in {".", ".."} else quote(part, safe=":@")
