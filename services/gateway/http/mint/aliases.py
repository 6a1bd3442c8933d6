"""``/mint/v1/policies/{policy}/aliases``: mutable names, moved by compare-and-set and rolled back."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter

from mint_common.catalog import AliasMove, AliasRecord
from mint_common.errors import RevisionNotReady
from mint_common.ids import Digest, TenantId
from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.policies import check_name
from services.gateway.http.edge.context import (
    AdminCaller,
    Gateway,
    GatewayDep,
    LimitQuery,
    ReadCaller,
    TrainCaller,
)
from services.gateway.http.edge.recording import RecordedRoute

router = APIRouter(prefix="/mint/v1/policies/{policy}/aliases", tags=["aliases"], route_class=RecordedRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteBody:
    """Where the alias shall point; ``expected`` is the digest that it must point at now.

    An empty ``expected`` means that the alias must not exist yet; without it the alias is moved anyway. With
    ``wait_ready`` the revision is loaded first, and the alias answers with the old one until it is ready.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"revision": 2, "reason": "accuracy 0.75", "wait_ready": False}
    )

    revision: int | str
    expected: str | None = None
    reason: str = ""
    wait_ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackBody:
    """Why; ``expected`` is the digest that the alias must point at now."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"reason": "worse in production"})

    expected: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectBody:
    """Whether only admins and rules move the alias."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"protected": True})

    protected: bool


@router.get("")
async def list_aliases(
    policy: str,
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: LimitQuery = 1000,
    after: str | None = None,
) -> list[AliasRecord]:
    """List the aliases of a policy by name; ``after`` is the last name of the page before."""
    return await gateway.registry.list_aliases(caller.tenant_id, policy, limit=limit, after=after)


@router.get("/{alias}")
async def get_alias(policy: str, alias: str, caller: ReadCaller, gateway: GatewayDep) -> AliasRecord:
    """Return where an alias points, with its newest 100 moves; ``/history`` has all of them."""
    return await gateway.registry.get_alias(caller.tenant_id, policy, alias)


@router.get("/{alias}/history")
async def list_history(  # noqa: PLR0917  # FastAPI passes them by name
    policy: str,
    alias: str,
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: LimitQuery = 100,
    before: int | None = None,
) -> list[AliasMove]:
    """List an alias's moves, newest first; ``before`` is the last sequence of the page before."""
    return await gateway.registry.list_history(caller.tenant_id, policy, alias, limit=limit, before=before)


@router.post("/{alias}/protect")
async def protect(
    policy: str, alias: str, body: ProtectBody, caller: AdminCaller, gateway: GatewayDep
) -> AliasRecord:
    """Let only admin keys and rules move an alias, or everybody again. Takes an admin key."""
    return await gateway.registry.protect_alias(caller.tenant_id, policy, alias, protected=body.protected)


@router.put("/{alias}")
async def promote(
    policy: str, alias: str, body: PromoteBody, caller: TrainCaller, gateway: GatewayDep
) -> AliasRecord:
    """Point an alias at a revision. 412 when ``expected`` is not what it points at.

    503 when the revision that ``wait_ready`` waits for is not ready in time; the alias has not moved then.
    """
    check_name("alias", alias)
    revision = body.revision if isinstance(body.revision, int) else Digest(body.revision)
    if body.wait_ready:
        await await_ready(gateway, caller.tenant_id, policy, revision)
    moved = await gateway.registry.move_alias(
        caller.tenant_id,
        policy,
        alias,
        revision=revision,
        expected=body.expected,
        reason=body.reason,
        actor=caller.actor,
        is_admin=caller.is_admin,
    )
    gateway.resolver.forget(caller.tenant_id, policy)
    return moved


@router.post("/{alias}/rollback")
async def roll_back(
    policy: str, alias: str, caller: TrainCaller, gateway: GatewayDep, body: RollbackBody | None = None
) -> AliasRecord:
    """Point an alias at what it pointed at before: a new row of its history, never a deletion."""
    wish = body or RollbackBody()
    moved = await gateway.registry.roll_back_alias(
        caller.tenant_id,
        policy,
        alias,
        expected=None if wish.expected is None else Digest(wish.expected),
        reason=wish.reason,
        actor=caller.actor,
        is_admin=caller.is_admin,
    )
    gateway.resolver.forget(caller.tenant_id, policy)
    return moved


async def await_ready(gateway: Gateway, tenant_id: TenantId, policy: str, revision: int | Digest) -> None:
    """Load a revision on the engine that its requests go to now, and return when it is ready.

    Raises RevisionNotReady after `ready_seconds`, and as `EngineClient.prewarm`.
    """
    base = (await gateway.registry.get_policy(tenant_id, policy)).base
    ref = (await gateway.registry.get_revision(tenant_id, policy, revision)).ref
    try:
        async with asyncio.timeout(gateway.ready_seconds):
            engine = await gateway.engines.find(base, digest=ref.digest)
            gateway.engines.believe(engine, await engine.prewarm(ref, tenant_id=tenant_id))
    except TimeoutError as error:
        raise RevisionNotReady(number=ref.number, name=policy, seconds=gateway.ready_seconds) from error
