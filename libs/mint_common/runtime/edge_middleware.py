"""Middleware around every request: id, span, metrics, size limit, internal token, and handling of bugs."""

import hmac
import logging
import time
from collections.abc import Callable

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mint_common.errors import InternalTokenRefused, MintError, Stopping
from mint_common.runtime.disconnect import ClientGone
from mint_common.runtime.draining import RequestsInHand, stream_error_of
from mint_common.runtime.edge_body import check_text, read_body, replayed
from mint_common.runtime.edge_series import request_seconds
from mint_common.runtime.slow_clients import paced
from mint_common.telemetry.tracing import REQUEST_HEADER, extracted, links_to, request_of, span, trace_id

INTERNAL_TOKEN_HEADER = "x-mint-internal-token"  # noqa: S105  # the header's name, not a token
TRACE_HEADER = "x-mint-trace-id"

Shaped = Callable[[Scope, MintError], Response]
"""Function that renders an error which no handler of the application has seen."""

_log = logging.getLogger(__name__)

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_QUIET_PATHS = {"/healthz", "/readyz", "/metrics"}


class EdgeMiddleware:
    """Wraps the whole application; answers pass through it unbuffered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        internal_token: str | None,
        trusts_traces: bool,
        max_body_bytes: int | None,
        registry: CollectorRegistry,
        in_hand: RequestsInHand,
        shaped: Shaped,
    ) -> None:
        assert internal_token != "", "an empty internal token protects nothing"  # None is allowed
        self._app = app
        self._internal_token = internal_token
        self._trusts_traces = trusts_traces
        self._max_body_bytes = max_body_bytes
        self._in_hand = in_hand
        self._shaped = shaped
        self._seconds = request_seconds(service, registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_quiet = scope["path"] in _QUIET_PATHS
        closes = self._in_hand.is_draining and not is_quiet
        answer = _Answer(send, request=request_of(headers), closes=closes)
        if is_quiet:
            await self._app(scope, receive, answer.send)
            return
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        trusted, links = (headers, ()) if self._trusts_traces else (None, links_to(headers))
        with (
            extracted(trusted, request=answer.request),
            span(method, kind=SpanKind.SERVER, links=links) as current,
        ):
            try:
                await self._guarded(scope, headers, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")
                _describe(current, method, route, answer)
                seconds = self._seconds.labels(method, route, str(answer.status))
                seconds.observe(time.perf_counter() - started)

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer") -> None:
        try:
            self._check_token(scope["path"], headers)
            with self._in_hand.counted():
                await self._answered(scope, headers, receive, answer)
        except (ClientDisconnect, ClientGone):
            return  # the client has disconnected
        except Stopping as error:
            await self._cut_off(scope, error, receive, answer)
        except Exception as error:
            told = error if isinstance(error, MintError) else MintError()
            if told is not error or answer.status:
                _log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            if answer.status:
                raise  # part of the answer is sent: only closing the connection tells the client
            await self._shaped(scope, told)(scope, receive, answer.send)

    async def _answered(self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer") -> None:
        if self._max_body_bytes is None:
            await self._app(scope, receive, answer.send)
            return
        body = await read_body(paced(receive), headers, limit=self._max_body_bytes)
        if body is not None:
            check_text(body, headers)
            await self._app(scope, replayed(body, receive), answer.send)

    async def _cut_off(self, scope: Scope, error: Stopping, receive: Receive, answer: "_Answer") -> None:
        """End a client's request with an error; raise if only closing the connection can."""
        if answer.is_complete:
            return
        if not answer.status:
            await self._shaped(scope, error)(scope, receive, answer.send)
            return
        render_error = stream_error_of(scope)
        if render_error is None:
            raise error
        await answer.send({"type": "http.response.body", "body": render_error(error), "more_body": True})
        await answer.send({"type": "http.response.body", "body": b""})

    def _check_token(self, path: str, headers: Headers) -> None:
        if self._internal_token is None or not (path == "/internal" or path.startswith("/internal/")):
            return
        given = headers.get(INTERNAL_TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), self._internal_token.encode()):
            raise InternalTokenRefused


class _Answer:
    """Records the status of the answer (0: none yet) and adds its ids; ``closes`` its connection."""

    def __init__(self, send: Send, *, request: str, closes: bool) -> None:
        self._send = send
        self.request = request
        self._closes = closes
        self.status = 0
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            headers[REQUEST_HEADER] = self.request
            if found := trace_id():
                headers[TRACE_HEADER] = found
            if self._closes:
                headers["connection"] = "close"
            message["headers"] = headers.raw
        await self._send(message)
        self.is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)


def _describe(current: Span, method: str, route: str, answer: _Answer) -> None:
    current.update_name(f"{method} {route}")
    current.set_attributes({"http.request.method": method, "http.route": route})
    current.set_attributes({"http.response.status_code": answer.status, "mint.request.id": answer.request})
    if answer.status >= 500 or answer.status == 0:
        current.set_status(Status(StatusCode.ERROR))
