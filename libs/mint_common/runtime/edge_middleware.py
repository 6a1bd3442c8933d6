"""What happens around every request: span, metrics, size limit, internal token, last resort for bugs."""

import hmac
import logging
import time

from fastapi.responses import JSONResponse
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mint_common.errors import InternalTokenRefused
from mint_common.telemetry.tracing import extracted, span, trace_id

INTERNAL_TOKEN_HEADER = "x-mint-internal-token"  # noqa: S105  # the header's name, not a token
TRACE_HEADER = "x-mint-trace-id"

_log = logging.getLogger(__name__)

_QUIET_PATHS = {"/healthz", "/readyz", "/metrics"}
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class EdgeMiddleware:
    """Wraps the whole application; streams pass through it unbuffered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: str,
        internal_token: str | None,
        max_body_bytes: int,
        registry: CollectorRegistry,
    ) -> None:
        assert internal_token != "", "an empty internal token protects nothing"  # None is allowed
        self._app = app
        self._internal_token = internal_token
        self._max_body_bytes = max_body_bytes
        self._seconds = Histogram(
            f"mint_{service}_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http" or scope["path"] in _QUIET_PATHS:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        answer = _Answer(send)
        headers = Headers(scope=scope)
        with extracted(headers), span(scope["method"], kind=SpanKind.SERVER) as current:
            try:
                await self._guarded(scope, headers, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")
                _describe(current, scope["method"], route, answer.status)
                seconds = self._seconds.labels(scope["method"], route, str(answer.status))
                seconds.observe(time.perf_counter() - started)

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer") -> None:
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        try:
            await self._app(scope, _limited(receive, self._max_body_bytes), answer.send)
        except Exception:
            _log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            if answer.status:
                raise  # half an answer is out: only a broken connection tells the client
            payload = {"code": "internal", "message": "Something failed.", "retryable": True}
            await JSONResponse({"error": payload}, 500)(scope, receive, answer.send)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        if self._internal_token is not None and (path == "/internal" or path.startswith("/internal/")):
            given = headers.get(INTERNAL_TOKEN_HEADER, "")
            if not hmac.compare_digest(given.encode(), self._internal_token.encode()):
                error = InternalTokenRefused()
                return JSONResponse({"error": error.to_payload()}, error.http_status)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            payload = {"code": "too_large", "message": _too_large(self._max_body_bytes), "retryable": False}
            return JSONResponse({"error": payload}, 413)
        return None


class _Answer:
    """Sees the status on its way out (0: none yet) and adds the trace id."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[TRACE_HEADER] = trace_id()
        await self._send(message)


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            # Of this class because the framework turns any other, raised while it reads a body, into a 400.
            raise HTTPException(413, _too_large(limit))
        return message

    return limited


def _too_large(limit: int) -> str:
    return f"A request body may have {limit} bytes at most"


def _describe(current: Span, method: str, route: str, status: int) -> None:
    current.update_name(f"{method} {route}")
    current.set_attributes({"http.request.method": method, "http.route": route})
    current.set_attribute("http.response.status_code", status)
    if status >= 500 or status == 0:
        current.set_status(Status(StatusCode.ERROR))
