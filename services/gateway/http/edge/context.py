"""Dependencies of routes: parts of the gateway, the verified caller, a stack for the answer's lifetime."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar, cast

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from mint_common.authority import Caller
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.core.browser_sessions import COOKIE, FORM_HEADER, BrowserSessions
from services.gateway.core.callers import choose_key

T = TypeVar("T")


class StatePart(Generic[T]):
    """A part of the gateway, which app.py puts into the application's state and routes depend on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def of(self, request: Request) -> T:
        """Return the part of the app that serves a request."""
        return cast(T, getattr(request.app.state, self.name))

    async def __call__(self, request: Request) -> T:
        """Return the part. Async: FastAPI sends every request through a thread for a plain function."""
        return self.of(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeParts:
    """Parts that each request passes before its route: keys, turns, memory for bodies, recorded requests."""

    clock: Clock
    keys: KeyChecks
    sessions: BrowserSessions
    requests: PostgresRequests
    in_hand: TenantBudget
    admission: LoopGate
    bodies: TenantBudget
    key_bodies: TenantBudget
    body_admission: LoopGate


EDGE: StatePart[EdgeParts] = StatePart("edge")
EdgeDep = Annotated[EdgeParts, Depends(EDGE)]


async def caller_of(request: Request) -> Caller:
    """Return the caller, as the route authenticated it before its handler."""
    return cast(Caller, request.state.caller)


async def authenticate(
    caller: Annotated[Caller, Depends(caller_of)],
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    _api_key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> Caller:
    """Return the caller. Routes depend on it with a scope; `GatewayRoute` checks it, the schema shows it."""
    return caller


async def authenticated(request: Request, *, afresh: bool = False) -> Caller:
    """Return the caller of a request's key; as `KeyChecks.caller_of`. Raises Forbidden: see `sent_key`."""
    return await caller_of_key(request, sent_key(request), afresh=afresh)


async def caller_of_key(request: Request, key: str, *, afresh: bool = False) -> Caller:
    """Return the caller of a key that a request sent; as `KeyChecks.caller_of`."""
    address = request.client.host if request.client else ""
    return await EDGE.of(request).keys.caller_of(key, address=address, afresh=afresh)


def sent_key(request: Request) -> str:
    """Return the key in a request's headers, else that of its browser session.

    Raises Unauthorized; Forbidden when a session changes something without its form token.
    """
    cookie = session_of(request)
    if cookie is not None:
        EDGE.of(request).sessions.check_form(request.method, cookie, request.headers.get(FORM_HEADER, ""))
    return key_of(request)


def session_of(request: Request) -> str | None:
    """Return the session that speaks for a request: None when it has a key in its headers."""
    headers = request.headers
    return None if "authorization" in headers or "x-api-key" in headers else request.cookies.get(COOKIE)


def key_of(request: Request) -> str:
    """Return the key of a request whose form token, if it needs one, is checked elsewhere.

    Raises Unauthorized.
    """
    cookie, edge = session_of(request), EDGE.of(request)
    if cookie is None:
        return key_in(request.headers)
    return edge.sessions.key_of(cookie, now=edge.clock.now())


def key_in(headers: Headers) -> str:
    """Return the key of a request, from either header. Raises Unauthorized."""
    given = [value.partition(" ") for value in headers.getlist("authorization")]
    bearers = [key for scheme, _, key in given if scheme.lower() == "bearer"]
    return choose_key([*bearers, *headers.getlist("x-api-key")])


ReadCaller = Annotated[Caller, Security(authenticate, scopes=["read"])]
InferCaller = Annotated[Caller, Security(authenticate, scopes=["infer"])]
TrainCaller = Annotated[Caller, Security(authenticate, scopes=["train"])]
AdminCaller = Annotated[Caller, Security(authenticate, scopes=["admin"])]
OperatorCaller = Annotated[Caller, Security(authenticate, scopes=["operator"])]
"""The caller, with the scope of the route: each endpoint has exactly one of these."""

CallerDep = Annotated[Caller, Depends(caller_of)]
"""The caller without a scope, for dependencies of endpoints."""


LimitQuery = Annotated[int, Query(ge=1, le=1000)]
"""Maximum number of items of a list."""


async def hold() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that is closed when the whole answer has been sent or its client is gone."""
    async with AsyncExitStack() as stack:
        yield stack


HeldDep = Annotated[AsyncExitStack, Depends(hold)]
