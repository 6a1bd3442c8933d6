"""What a model name means now. A name never falls back to the base."""

from typing import Annotated

from fastapi import FastAPI, Query

from mint_common.catalog import PolicyRecord, Resolution
from mint_common.claims import RevisionRef
from mint_common.errors import NoRevision, NotFound
from services.registry.core.names import DEFAULT_ALIAS, ModelName, parse_model
from services.registry.http.context import Registry, Tenant


def add_resolve_route(http: FastAPI, registry: Registry) -> None:
    """Add the resolution of model names."""

    @http.get("/internal/tenants/{tenant_id}/resolve")
    async def resolve(tenant_id: Tenant, model: Annotated[str, Query(max_length=500)]) -> Resolution:
        name = parse_model(model)
        try:
            # A policy first: a base that came later must not take over the name of a tenant's policy.
            policy = await registry.catalog.policy(tenant_id, name.name)
        except NotFound:
            if not name.is_bare:
                raise
            return await _base(registry, name)
        revision = await _revision(registry, policy, name)
        return Resolution(
            base=policy.base, policy_id=policy.policy_id, policy_name=policy.name, revision=revision
        )


async def _base(registry: Registry, name: ModelName) -> Resolution:
    try:
        facts = await registry.catalog.base(name.name)
    except NotFound as error:
        raise NotFound(kind="model", name=name.name) from error
    return Resolution(base=facts.name, policy_id=None, policy_name=None, revision=None)


async def _revision(registry: Registry, policy: PolicyRecord, name: ModelName) -> RevisionRef:
    if name.revision is not None:
        return (await registry.catalog.revision(policy.policy_id, name.revision)).ref
    if name.alias is not None:
        return (await registry.aliases.alias(policy.policy_id, name.alias)).revision
    return await _default(registry, policy)


async def _default(registry: Registry, policy: PolicyRecord) -> RevisionRef:
    try:
        return (await registry.aliases.alias(policy.policy_id, DEFAULT_ALIAS)).revision
    except NotFound:
        if policy.latest is None:
            raise NoRevision(name=policy.name) from None
        return policy.latest
