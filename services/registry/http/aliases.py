"""Aliases: compare-and-set, rollback, history."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI
from pydantic import StrictInt, StringConstraints

from mint_common.catalog import AliasMove, AliasRecord
from services.registry.core.names import alias_key, check_alias_name, policy_key, revision_key
from services.registry.http.context import (
    Body,
    Label,
    Limit,
    NumberCursor,
    Reason,
    Registry,
    Tenant,
    TextCursor,
)
from services.registry.ports.accounts import PAGE
from services.registry.ports.aliases import Mover

_ALIASES = "/internal/tenants/{tenant_id}/policies/{policy}/aliases"

Expected = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]


class MoveBody(Body):
    """Where an alias shall point; ``expected`` is the digest it points at now, "" when it must not exist."""

    revision: StrictInt | str
    actor: Label
    reason: Reason = ""
    expected: Expected | None = None
    is_admin: bool = True


class RollbackBody(Body):
    """Who rolls back and why; ``expected`` is the digest that the alias points at now."""

    actor: Label
    reason: Reason = ""
    expected: Expected | None = None
    is_admin: bool = True


class ProtectBody(Body):
    """Whether only admins and rules move an alias."""

    protected: bool


def add_alias_routes(http: FastAPI, registry: Registry) -> None:
    """Add aliases."""

    @http.get(_ALIASES)
    async def list_aliases(
        tenant_id: Tenant, policy: str, limit: Limit = PAGE, after: TextCursor = None
    ) -> Sequence[AliasRecord]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.aliases.aliases(found.policy_id, limit=limit, after=after)

    @http.get(_ALIASES + "/{alias}")
    async def get_alias(tenant_id: Tenant, policy: str, alias: str) -> AliasRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.aliases.alias(found.policy_id, alias_key(alias))

    @http.get(_ALIASES + "/{alias}/history")
    async def list_history(
        tenant_id: Tenant, policy: str, alias: str, limit: Limit = 100, before: NumberCursor | None = None
    ) -> Sequence[AliasMove]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.aliases.history(found.policy_id, alias_key(alias), limit=limit, before=before)

    @http.post(_ALIASES + "/{alias}/protect")
    async def protect_alias(tenant_id: Tenant, policy: str, alias: str, body: ProtectBody) -> AliasRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        name = alias_key(alias)
        await registry.aliases.protect(found.policy_id, name, protected=body.protected)
        return await registry.aliases.alias(found.policy_id, name)

    @http.put(_ALIASES + "/{alias}")
    async def move_alias(tenant_id: Tenant, policy: str, alias: str, body: MoveBody) -> AliasRecord:
        check_alias_name(alias)
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        revision = await registry.catalog.revision(found.policy_id, revision_key(str(body.revision)))
        mover = _mover(registry, body)
        return await registry.aliases.move(found, alias, revision.ref, mover, expected=body.expected)

    @http.post(_ALIASES + "/{alias}/rollback")
    async def roll_back_alias(tenant_id: Tenant, policy: str, alias: str, body: RollbackBody) -> AliasRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        mover = _mover(registry, body)
        return await registry.aliases.roll_back(found, alias_key(alias), mover, expected=body.expected)


def _mover(registry: Registry, body: MoveBody | RollbackBody) -> Mover:
    return Mover(actor=body.actor, reason=body.reason, at=registry.clock.now(), is_admin=body.is_admin)
