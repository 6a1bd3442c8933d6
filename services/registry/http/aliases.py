"""Aliases: compare-and-set, rollback, history."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI
from pydantic import StrictInt, StringConstraints

from mint_common.catalog import AliasRecord
from services.registry.core.names import alias_key, check_alias_name, policy_key, revision_key
from services.registry.http.context import Body, Label, Reason, Registry, Tenant
from services.registry.ports import Mover

_ALIASES = "/internal/tenants/{tenant_id}/policies/{policy}/aliases"

Expected = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]


class MoveBody(Body):
    """Where an alias shall point; ``expected`` is the digest it points at now, "" when it must not exist."""

    revision: StrictInt | str
    actor: Label
    reason: Reason = ""
    expected: Expected | None = None


class RollbackBody(Body):
    """Who rolls back and why; ``expected`` is the digest that the alias points at now."""

    actor: Label
    reason: Reason = ""
    expected: Expected | None = None


def add_alias_routes(http: FastAPI, registry: Registry) -> None:
    """Add aliases."""

    @http.get(_ALIASES)
    async def list_aliases(tenant_id: Tenant, policy: str) -> Sequence[AliasRecord]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.aliases.aliases(found.policy_id)

    @http.get(_ALIASES + "/{alias}")
    async def get_alias(tenant_id: Tenant, policy: str, alias: str) -> AliasRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.aliases.alias(found.policy_id, alias_key(alias))

    @http.put(_ALIASES + "/{alias}")
    async def move_alias(tenant_id: Tenant, policy: str, alias: str, body: MoveBody) -> AliasRecord:
        check_alias_name(alias)
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        revision = await registry.catalog.revision(found.policy_id, revision_key(str(body.revision)))
        await registry.aliases.move(
            found, alias, revision.ref, _mover(registry, body), expected=body.expected
        )
        return await registry.aliases.alias(found.policy_id, alias)

    @http.post(_ALIASES + "/{alias}/rollback")
    async def roll_back_alias(tenant_id: Tenant, policy: str, alias: str, body: RollbackBody) -> AliasRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        name = alias_key(alias)
        await registry.aliases.roll_back(found, name, _mover(registry, body), expected=body.expected)
        return await registry.aliases.alias(found.policy_id, name)


def _mover(registry: Registry, body: MoveBody | RollbackBody) -> Mover:
    return Mover(actor=body.actor, reason=body.reason, at=registry.clock.now())
