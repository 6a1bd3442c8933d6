"""Internal routes that make a change once per cause: a repeat gets the first answer.

Invariant: an endpoint passes its cause to the one `PostgresLedger.request` that makes its change and stores
its answer; so there is an answer exactly when the change is committed.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, cast

from fastapi import Header, Request, Response

from mint_common.authority import CAUSE_HEADER
from mint_common.errors import AlreadyHandled
from mint_common.runtime.edge_routes import BodyRoute, Handler
from mint_common.runtime.ledger_postgres import PostgresLedger

CauseHeader = Annotated[str | None, Header(alias=CAUSE_HEADER, min_length=1, max_length=200)]
"""Cause of a request that may be repeated."""


class RepeatableRoute(BodyRoute):
    """A route of a router made with this ``route_class``; the application's state has ``ledger``."""

    def get_route_handler(self) -> Handler:  # type: ignore[override]  # its Coroutine is an Awaitable
        """Answer a repeat before the endpoint's checks, whose state may have changed since."""
        carry_out = super().get_route_handler()
        if self.methods == {"GET"}:
            return carry_out

        async def handle(request: Request) -> Response:
            cause = request.headers.get(CAUSE_HEADER)
            if cause is None:
                return await carry_out(request)
            return await self._once(request, cause, carry_out)

        return handle

    async def _once(
        self, request: Request, cause: str, carry_out: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        ledger = cast(PostgresLedger, request.app.state.ledger)
        answer = await ledger.first_answer(cause)
        if answer is None:
            try:
                return await carry_out(request)
            except AlreadyHandled:
                # The first of two at once committed while the second waited for it.
                answer = await ledger.first_answer(cause)
                if answer is None:
                    raise
        status = self.status_code or 200
        content = None if status == 204 else answer
        return Response(content, status, media_type="application/json" if content else None)
