"""The steps of every request before its route's handler, in order: key, caller, scope, body.

Invariants: the parameters of an endpoint declare its scope (`ReadCaller` and others) and whether it reads its
body itself (`StreamDep`); an application with a route without a scope does not start, except for
`OPEN_PATHS`. No rule depends on a request's path.
"""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from typing import Any, ClassVar, Literal, cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from mint_common.authority import Caller
from mint_common.catalog import Scope
from mint_common.runtime.edge_routes import Handler, dependencies_of, stream_of
from mint_common.runtime.slow_clients import paced
from services.gateway.http.edge.bodies import admit_body, answered
from services.gateway.http.edge.context import EDGE, authenticate, authenticated

OPEN_PATHS = frozenset(
    {
        "/health",
        "/ping",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/redoc.js",
        "/",
        "/console/signin",
        "/console/signout",
        "/console/static/{name:path}",
        "/api/v1/downloads/{ticket}/{name}",
    }
)
"""Routes without a key. The ticket of a download is signed; the console's check keys and show no data."""

ASKED_AFRESH: AbstractSet[Scope] = {"admin", "operator"}
"""Scopes whose routes show and change keys, tenants and secrets; they refuse a revoked key at once."""


Api = Literal["mint", "openai", "anthropic", "tinker"]
"""API that defines the shape of a route's errors."""


_REFUSALS = frozenset({400, 401, 403, 404, 413, 429, 502, 503})
"""Statuses of all routes with a key."""


class GatewayRoute(APIRoute):
    """A route of a router made with ``route_class=GatewayRoute``."""

    api: ClassVar[Api] = "mint"
    max_body_bytes: ClassVar[int] = 1 << 20

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # FastAPI's own
        super().__init__(path, endpoint, **options)
        self.needed_scope = _scope_said(self)
        self.asks_afresh = self.needed_scope in ASKED_AFRESH
        self.streams_body = any(each.call is stream_of for each in dependencies_of(self.dependant))
        # Python's "$" also matches before a line end: "/tenants\n" would be "/tenants".
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")

    @property
    def other_statuses(self) -> frozenset[int]:
        """Return the statuses that it has beside those of its own, for the schema."""
        return _REFUSALS if self.api in {"openai", "anthropic"} else _REFUSALS | {422}

    async def handle(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer a request; then close `answered`."""
        with ExitStack() as stack:
            scope.setdefault("state", {})["answered"] = stack
            await super().handle(scope, receive, send)

    def get_route_handler(self) -> Handler:  # type: ignore[override]  # its Coroutine is an Awaitable
        """Wrap the route's own handler."""
        carry_out = super().get_route_handler()

        async def handle(request: Request) -> Response:
            caller = request.state.caller = await self.caller_of(request)
            answered(request).enter_context(EDGE.of(request).in_hand.counted(caller.tenant_id))
            paced_request = Request(request.scope, paced(request.receive))
            return await self.serve(paced_request, caller, carry_out)

        return handle

    async def caller_of(self, request: Request) -> Caller:
        """Return the caller of a request's key. Raises Unauthorized."""
        return await authenticated(request, afresh=self.asks_afresh)

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request whose key is verified."""
        return await carry_out(await self.admit(request, caller))

    async def admit(self, request: Request, caller: Caller) -> Request:
        """Check the scope, read the body unless the route streams it, and wait for the tenant's turn.

        Raises Forbidden, BodyTooLarge.
        """
        caller.authority.check(self.needed_scope)
        if not self.streams_body:
            request = await admit_body(request, caller, limit=self.max_body_bytes)
        await EDGE.of(request).admission.admit(caller.tenant_id)
        return request


class OpenAIRoute(GatewayRoute):
    """A route of the OpenAI API."""

    api: ClassVar[Api] = "openai"


class TinkerRoute(GatewayRoute):
    """A route of the Tinker API."""

    api = "tinker"


def check_routes(http: FastAPI) -> None:
    """Refuse an application with a route that is neither a `GatewayRoute` nor in `OPEN_PATHS`."""
    for route in http.routes:
        if not isinstance(route, GatewayRoute) and not (
            isinstance(route, Route) and route.path in OPEN_PATHS
        ):
            raise TypeError(f"{route!r} has no key: give its router route_class=GatewayRoute")


def _scope_said(route: APIRoute) -> Scope:
    taken = [each for each in dependencies_of(route.dependant) if each.call is authenticate]
    said = [each.own_oauth_scopes or () for each in taken]
    if len(said) != 1 or len(said[0]) != 1:
        problem = "its endpoint needs exactly one of ReadCaller, InferCaller, TrainCaller, ..."
        raise TypeError(f"{sorted(route.methods)} {route.path}: {problem}")
    return cast(Scope, said[0][0])
