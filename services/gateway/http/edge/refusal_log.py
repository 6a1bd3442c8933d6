"""One log line per refused request: tenant, route, code. Never its body, query or key."""

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mint_common.authority import Caller
from mint_common.errors import InvalidField, MintError
from mint_common.line_budget import LineBudget
from mint_common.runtime.clock import Clock
from mint_common.runtime.edge_middleware import TRACE_HEADER
from mint_common.telemetry.tracing import REQUEST_HEADER

LINES_PER_SECOND = 20
_NOT_YET = 408
"""Status of the Tinker API for an unfinished future: an answer, not a refusal."""

_log = logging.getLogger(__name__)


def note_refusal(scope: Scope, error: Exception) -> None:
    """Store the code of the error that answers a request."""
    code = error.code if isinstance(error, MintError) else InvalidField.code
    status = getattr(error, "status_code", None)  # refusals of the framework, such as an unknown route
    scope.setdefault("state", {})["refused_with"] = code if status is None else f"http_{status}"


class RefusalLog:
    """Wraps the application. Writes at most 20 lines per second; the next line counts the omitted ones."""

    def __init__(self, app: ASGIApp, *, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._budget = LineBudget(per_second=LINES_PER_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""

        async def watch(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._note(scope, message)

        await self._app(scope, receive, watch if scope["type"] == "http" else send)

    def _note(self, scope: Scope, start: Message) -> None:
        status = start["status"]
        skipped = None if status == _NOT_YET else self._budget.take(self._clock.monotonic())
        if skipped is None:
            return
        state = scope.get("state", {})
        caller: Caller | None = state.get("caller")
        route = getattr(scope.get("route"), "path", None)
        headers = Headers(raw=start["headers"])
        _log.info(
            "request refused",
            extra={
                "tenant_id": caller and caller.tenant_id,
                "key_id": caller and caller.key_id,
                "method": scope["method"],
                "route": route or scope["path"][:200],
                "status": status,
                "code": state.get("refused_with"),
                "trace_id": headers.get(TRACE_HEADER),
                "request_id": headers.get(REQUEST_HEADER),
                "lines_left_out": skipped,
            },
        )
