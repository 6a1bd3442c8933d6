"""What every route gets: the gateway's parts, the verified caller, things that live as long as an answer."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from mint_common.authority import Caller
from mint_common.bus.port import EventLog
from mint_common.client.directory import EngineDirectory
from mint_common.client.registry import RegistryClient
from mint_common.ids import TenantId
from mint_common.line_budget import LineBudget
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate, LoopGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.adapters.rollout import RolloutClient
from services.gateway.adapters.webhooks_postgres import PostgresWebhooks
from services.gateway.core.callers import choose_key
from services.gateway.core.webhooks.records import WebhookLimits
from services.gateway.http.tinker.context import Tinker


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardLimits:
    """Requests of a tenant to a service at a time: short ones wait their turn, long ones are refused."""

    short: FairGate
    long: TenantBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts and the memory that all routes share; made by app.py."""

    registry: RegistryClient
    resolver: CachedResolver
    rollout: RolloutClient
    engines: EngineDirectory
    requests: PostgresRequests
    webhooks: PostgresWebhooks
    webhook_limits: WebhookLimits
    log: EventLog
    clock: Clock
    keys: KeyChecks
    ready_seconds: float
    max_answer_bytes: int
    open_prompts: TenantBudget
    open_answers: TenantBudget
    in_hand: TenantBudget
    event_streams: TenantBudget
    downloads: TenantBudget
    catalog_limits: ForwardLimits
    rollout_limits: ForwardLimits
    arriving_files: TenantBudget
    bodies: TenantBudget
    key_bodies: TenantBudget
    cold_admission: LoopGate
    body_admission: LoopGate
    admission: LoopGate
    report_lines: LineBudget
    tinker: Tinker

    def is_warm(self, tenant_id: TenantId, model: str) -> bool:
        """Return whether the last resolution of a name is known to be in an engine's memory."""
        known = self.resolver.known(tenant_id, model)
        if known is None:
            return False
        return known.revision is None or self.engines.holds(known.base, known.revision.digest)


def gateway_of(request: Request) -> Gateway:
    """Return what the app that serves the request was made with."""
    return cast(Gateway, request.app.state.gateway)


async def _gateway(request: Request) -> Gateway:
    # Async, though it waits for nothing: FastAPI sends every request through a thread for a plain function.
    return gateway_of(request)


GatewayDep = Annotated[Gateway, Depends(_gateway)]


async def caller_of(request: Request) -> Caller:
    """Return the caller, as the route authenticated it before its handler."""
    return cast(Caller, request.state.caller)


async def authenticate(
    caller: Annotated[Caller, Depends(caller_of)],
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    _api_key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> Caller:
    """Return the caller. Routes depend on it by a scope that `GatewayRoute` checks; the schema has both."""
    return caller


async def authenticated(request: Request, *, afresh: bool = False) -> Caller:
    """Return the caller that a request's key stands for; as `KeyChecks.caller_of`."""
    address = request.client.host if request.client else ""
    checks = gateway_of(request).keys
    return await checks.caller_of(key_in(request.headers), address=address, afresh=afresh)


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
"""The caller, and the scope that a route takes: each endpoint has exactly one of them."""

CallerDep = Annotated[Caller, Depends(caller_of)]
"""The caller, for what endpoints depend on: it says no scope."""


LimitQuery = Annotated[int, Query(ge=1, le=1000)]
"""How many items of a list at most."""


async def hold() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that is closed when the whole answer has been sent, or its client has gone."""
    async with AsyncExitStack() as stack:
        yield stack


HeldDep = Annotated[AsyncExitStack, Depends(hold)]
