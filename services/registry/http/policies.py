"""Policies, and the resolution of model names. A name never falls back to the base."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from mint_common.catalog import PolicyFilter, PolicyNames, PolicyRecord, Resolution
from mint_common.catalog_requests import LongPageQuery, PolicyPatch, PolicyQuery, PolicyRequest
from mint_common.events import Retention
from mint_common.ids import PolicyId, new_id
from mint_common.lora import plan_lora
from mint_common.names import check_policy_name
from mint_common.runtime.edge_repeats import CauseHeader, RepeatableRoute
from mint_common.timeline import TimelineEntry, TimelineQuery, read_place
from services.registry.core.names import parse_model
from services.registry.core.policies import PolicyChange, check_description, parse_labels
from services.registry.http.context import CallerDep, PolicyDep, RegistryDep, Tenant, find_base

router = APIRouter(prefix="/internal/tenants/{tenant_id}", route_class=RepeatableRoute)


@router.get("/resolve")
async def resolve(
    tenant_id: Tenant, model: Annotated[str, Query(max_length=500)], registry: RegistryDep
) -> Resolution:
    """Resolve a model name."""
    return await registry.names.resolve(tenant_id, parse_model(model))


@router.post("/policies", status_code=201)
async def create_policy(
    tenant_id: Tenant, body: PolicyRequest, registry: RegistryDep, cause: CauseHeader = None
) -> PolicyRecord:
    """Create a policy over a base."""
    check_policy_name(body.name)
    base = await find_base(registry, body.base)
    policy = PolicyRecord(
        policy_id=PolicyId(new_id("pol")),
        tenant_id=tenant_id,
        name=body.name,
        base=base.name,
        lora=plan_lora(base, **body.lora.model_dump()),
        created_at=registry.clock.now(),
        latest=None,
        description=body.description,
        labels=dict(sorted(body.labels.items())),
        retention=Retention(**body.retention.model_dump()),
    )
    check_description(policy)
    await registry.catalog.add_policy(policy, cause=cause)
    return policy


@router.get("/policies")
async def list_policies(
    tenant_id: Tenant, query: Annotated[PolicyQuery, Query()], registry: RegistryDep
) -> Sequence[PolicyRecord]:
    """Return policies by name, or by time when a time selects them."""
    wanted = PolicyFilter(
        prefix=query.prefix or "",
        base=query.base,
        has_revision=query.has_revision,
        labels=() if query.labels is None else parse_labels(query.labels),
        created_after=query.created_after,
        created_before=query.created_before,
    )
    return await registry.catalog.policies(tenant_id, wanted, limit=query.limit, after=query.after)


@router.get("/names")
async def list_names(
    tenant_id: Tenant, page: Annotated[LongPageQuery, Query()], registry: RegistryDep
) -> Sequence[PolicyNames]:
    """Return the names of policies that have a revision."""
    return await registry.aliases.names(tenant_id, limit=page.limit, after=page.after)


@router.get("/policies/{policy}")
async def get_policy(policy: PolicyDep) -> PolicyRecord:
    """Return a policy."""
    return policy


@router.get("/timeline")
async def list_tenant_timeline(
    tenant_id: Tenant, page: Annotated[TimelineQuery, Query()], registry: RegistryDep
) -> Sequence[TimelineEntry]:
    """Return the moves, exports and scores of all policies of a tenant, newest first."""
    return await registry.timeline.entries(tenant_id, limit=page.limit, before=read_place(page.before))


@router.get("/policies/{policy}/timeline")
async def list_timeline(
    policy: PolicyDep, page: Annotated[TimelineQuery, Query()], registry: RegistryDep
) -> Sequence[TimelineEntry]:
    """Return a policy's moves, exports and scores, newest first."""
    own, before = (policy.tenant_id, policy.policy_id), read_place(page.before)
    return await registry.timeline.entries(*own, limit=page.limit, before=before)


@router.patch("/policies/{policy}")
async def change_policy(
    policy: PolicyDep,
    body: PolicyPatch,
    registry: RegistryDep,
    expected: int | None = None,
    cause: CauseHeader = None,
) -> PolicyRecord:
    """Change a policy's description, labels or retention.

    ``expected`` is the ``changed`` that it must have.
    """
    change = _change(policy, body)
    return await registry.catalog.change_policy(policy.policy_id, change, expected=expected, cause=cause)


@router.delete("/policies/{policy}", status_code=204)
async def remove_policy(
    policy: PolicyDep, caller: CallerDep, registry: RegistryDep, cause: CauseHeader = None
) -> None:
    """Remove a policy that nothing holds."""
    await registry.catalog.remove_policy(policy, actor=caller.actor, cause=cause)


def _change(policy: PolicyRecord, body: PolicyPatch) -> PolicyChange:
    change: dict[str, Any] = {}  # Any: the fields of PolicyChange
    if "description" in body.model_fields_set:
        change["description"] = body.description or ""
    if "labels" in body.model_fields_set:
        change["labels"] = dict.fromkeys(policy.labels) if body.labels is None else body.labels
    if "retention" in body.model_fields_set:
        change["retention"] = Retention(**body.retention.model_dump()) if body.retention else Retention()
        if body.retention is not None:
            change["of_retention"] = frozenset(body.retention.model_fields_set)
    return PolicyChange(**change)
