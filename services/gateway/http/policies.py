"""``/mint/v1/policies`` and their revisions."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from mint_common.catalog import PolicyRecord, RevisionRecord, RevisionState
from mint_common.ids import BaseName, Digest
from services.gateway.core.callers import Caller
from services.gateway.core.policies import PolicyRequest, check_name, plan_lora
from services.gateway.http.context import CallerDep, Gateway, GatewayDep, LimitQuery
from services.gateway.http.recording import RecordedRoute

router = APIRouter(prefix="/mint/v1/policies", tags=["policies"], route_class=RecordedRoute)

TAR_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Lineage(BaseModel):
    """Where an uploaded adapter comes from: its optimizer step, the revision that it was trained from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(0, ge=0, le=2**53)
    parent: str | None = None


_UPLOAD = re.compile(r"/mint/v1/policies/[^/]+/revisions")


@router.post("", status_code=201)
async def create_policy(body: PolicyRequest, caller: CallerDep, gateway: GatewayDep) -> PolicyRecord:
    """Create a policy over a base; it equals the base until its first revision."""
    check_name("name", body.name)
    base = await gateway.registry.get_base(BaseName(body.base))
    lora = plan_lora(body.lora, max_rank=base.max_rank, targets=base.targets)
    return await gateway.registry.create_policy(
        caller.tenant_id,
        name=body.name,
        base=base.name,
        rank=lora.rank,
        alpha=lora.alpha,
        targets=lora.targets,
        seed=lora.seed,
    )


@router.get("")
async def list_policies(
    caller: CallerDep, gateway: GatewayDep, limit: LimitQuery = 100, after: str | None = None
) -> list[PolicyRecord]:
    """List the tenant's policies by name; ``after`` is the last name of the page before."""
    return await gateway.registry.list_policies(caller.tenant_id, limit=limit, after=after)


@router.get("/{policy}")
async def get_policy(policy: str, caller: CallerDep, gateway: GatewayDep) -> PolicyRecord:
    """Return one policy, by name or id."""
    return await gateway.registry.get_policy(caller.tenant_id, policy)


@router.get("/{policy}/revisions")
async def list_revisions(
    policy: str, caller: CallerDep, gateway: GatewayDep, limit: LimitQuery = 100, after: int | None = None
) -> list[RevisionRecord]:
    """List the revisions of a policy by number; ``after`` is the last number of the page before."""
    return await gateway.registry.list_revisions(caller.tenant_id, policy, limit=limit, after=after)


@router.get("/{policy}/revisions/{revision}")
async def get_revision(policy: str, revision: str, caller: CallerDep, gateway: GatewayDep) -> RevisionRecord:
    """Return one revision, by number or digest."""
    return await gateway.registry.get_revision(caller.tenant_id, policy, Digest(revision))


@router.post("/{policy}/revisions", status_code=201, openapi_extra=TAR_BODY)
async def upload_revision(
    request: Request,
    policy: str,
    caller: CallerDep,
    gateway: GatewayDep,
    lineage: Annotated[Lineage, Query()],
) -> RevisionRecord:
    """Upload an adapter folder, as PEFT or MinT saved it, as a revision of a policy.

    The body is a plain tar of `adapter_model.safetensors` and `adapter_config.json`. It is checked like an
    export; the same weights are the same revision.
    """
    found = await gateway.registry.upload_revision(
        caller.tenant_id,
        policy,
        request.stream(),
        step=lineage.step,
        parent=None if lineage.parent is None else Digest(lineage.parent),
    )
    gateway.resolver.forget(caller.tenant_id, policy)
    return found


@router.post("/{policy}/revisions/{revision}/retire")
async def retire_revision(
    policy: str, revision: str, caller: CallerDep, gateway: GatewayDep
) -> RevisionRecord:
    """Take a revision out of use: no name resolves to it. Refused while an alias points at it."""
    return await _set_state(gateway, caller, policy, revision, "retired")


@router.post("/{policy}/revisions/{revision}/restore")
async def restore_revision(
    policy: str, revision: str, caller: CallerDep, gateway: GatewayDep
) -> RevisionRecord:
    """Put a retired revision into use again."""
    return await _set_state(gateway, caller, policy, revision, "published")


async def _set_state(
    gateway: Gateway, caller: Caller, policy: str, revision: str, state: RevisionState
) -> RevisionRecord:
    changed = await gateway.registry.set_revision_state(caller.tenant_id, policy, Digest(revision), state)
    gateway.resolver.forget(caller.tenant_id, policy)
    return changed


def streams_body(method: str, path: str) -> bool:
    """Return whether a request is an upload, whose body is passed on as it comes."""
    return method == "POST" and _UPLOAD.fullmatch(path) is not None
