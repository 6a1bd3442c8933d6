"""``/mint/v1/policies`` and their revisions."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    PolicyFilter,
    PolicyRecord,
    RevisionFilter,
    RevisionRecord,
    RevisionState,
)
from mint_common.errors import NotFound
from mint_common.ids import BaseName, Digest
from mint_common.runtime.slow_clients import BodyTooSlow
from services.gateway.core.callers import Caller
from services.gateway.core.mint.policies import (
    PolicyRequest,
    check_name,
    plan_lora,
    split_labels,
)
from services.gateway.core.mint.uploads import REFUSED, TAR_BODY, stalled
from services.gateway.http.edge.bodies import StreamDep
from services.gateway.http.edge.context import Gateway, GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import RecordedRoute, check_expected

router = APIRouter(prefix="/mint/v1/policies", tags=["policies"], route_class=RecordedRoute)


class RetentionPatch(BaseModel):
    """Which revisions stay: the newest ``keep_last``, and all of the last ``keep_days`` days; null clears."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_last: int | None = None
    keep_days: int | None = None


class PolicyPatch(BaseModel):
    """A merge patch (RFC 7396): what is not named stays, null clears; a label set to null goes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "description": "Copies its prompt.",
                    "labels": {"stage": "prod", "trial": None},
                    "retention": {"keep_last": 100, "keep_days": 30},
                }
            ]
        },
    )

    description: str | None = None
    labels: dict[str, str | None] | None = None
    retention: RetentionPatch | None = None


class Lineage(BaseModel):
    """Where an uploaded adapter comes from: its optimizer step, the revision that it was trained from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(0, ge=0, le=2**53)
    parent: str | None = None


LabelsQuery = Annotated[str | None, Query(examples=["team=search,stage=prod"], max_length=5000)]
MomentQuery = Annotated[float | None, Query(ge=0, le=2**35, allow_inf_nan=False)]
"""Seconds since the epoch."""

MOST_NAMED = 20
"""How many bases are named to who asked for one that there is not."""


@router.post("", status_code=201)
async def create_policy(body: PolicyRequest, caller: TrainCaller, gateway: GatewayDep) -> PolicyRecord:
    """Create a policy over a base; it equals the base until its first revision."""
    check_name("name", body.name)
    base = await _base(gateway, body.base)
    lora = plan_lora(body.lora, max_rank=base.max_rank, targets=base.targets)
    return await gateway.registry.create_policy(
        caller.tenant_id,
        name=body.name,
        base=base.name,
        rank=lora.rank,
        alpha=lora.alpha,
        targets=lora.targets,
        seed=lora.seed,
        described={
            "description": body.description,
            "labels": body.labels,
            "retention": asdict(body.retention),
        },
    )


async def _base(gateway: Gateway, name: str) -> BaseFacts:
    """Return a base. Raises NotFound that tells which there are."""
    try:
        return await gateway.registry.get_base(BaseName(name))
    except NotFound as error:
        known = sorted(base.name for base in await gateway.registry.list_bases())
        raise NotFound(kind="base", name=name, near=", ".join(known[:MOST_NAMED])) from error


@router.get("")
async def list_policies(  # noqa: PLR0917  # FastAPI passes them by name
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: LimitQuery = 100,
    after: str | None = None,
    base: str | None = None,
    labels: LabelsQuery = None,
    created_after: MomentQuery = None,
    created_before: MomentQuery = None,
) -> list[PolicyRecord]:
    """List the tenant's policies by name; ``after`` is the last name of the page before.

    ``base``, ``labels`` and the times, in seconds since the epoch, select; all that are given must hold. A
    list that a time selects is in order of creation.
    """
    wanted = PolicyFilter(
        base=base,
        labels=split_labels(labels),
        created_after=created_after,
        created_before=created_before,
    )
    return await gateway.registry.list_policies(caller.tenant_id, wanted, limit=limit, after=after)


@router.get("/{policy}")
async def get_policy(policy: str, caller: ReadCaller, gateway: GatewayDep) -> PolicyRecord:
    """Return one policy, by name or id."""
    return await gateway.registry.get_policy(caller.tenant_id, policy)


@router.patch("/{policy}")
async def change_policy(
    policy: str,
    body: PolicyPatch,
    caller: TrainCaller,
    gateway: GatewayDep,
    if_match: Annotated[str | None, Header()] = None,
) -> PolicyRecord:
    """Describe a policy otherwise: description, labels, retention. 412 when If-Match is not its ETag now."""
    found = await gateway.registry.get_policy(caller.tenant_id, policy)
    check_expected(if_match, found, what=f"policy {found.name!r}")
    return await gateway.registry.change_policy(
        caller.tenant_id,
        found.policy_id,
        body.model_dump(exclude_unset=True),
        expected=None if if_match is None else found.changed,
    )


@router.get("/{policy}/revisions")
async def list_revisions(  # noqa: PLR0917  # FastAPI passes them by name
    policy: str,
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: LimitQuery = 100,
    after: int | None = None,
    state: RevisionState | None = None,
    created_after: MomentQuery = None,
    created_before: MomentQuery = None,
) -> list[RevisionRecord]:
    """List the revisions of a policy by number; ``after`` is the last number of the page before.

    ``state`` and the times, in seconds since the epoch, select; all that are given must hold.
    """
    wanted = RevisionFilter(state=state, created_after=created_after, created_before=created_before)
    return await gateway.registry.list_revisions(caller.tenant_id, policy, wanted, limit=limit, after=after)


@router.get("/{policy}/revisions/{revision}")
async def get_revision(policy: str, revision: str, caller: ReadCaller, gateway: GatewayDep) -> RevisionRecord:
    """Return one revision, by number or digest."""
    return await gateway.registry.get_revision(caller.tenant_id, policy, Digest(revision))


@router.post(
    "/{policy}/revisions",
    status_code=201,
    openapi_extra=TAR_BODY,
    responses={422: REFUSED},
)
async def upload_revision(
    body: StreamDep,
    policy: str,
    caller: TrainCaller,
    gateway: GatewayDep,
    lineage: Annotated[Lineage, Query()],
) -> RevisionRecord:
    """Upload an adapter folder, as PEFT or MinT saved it, as a revision of a policy.

    The body is a plain tar of `adapter_model.safetensors` and `adapter_config.json`. It is checked like an
    export; the same weights are the same revision. Each way of being refused has a code of its own, and a
    sentence that says what to do.
    """
    try:
        found = await gateway.registry.upload_revision(
            caller.tenant_id,
            policy,
            body,
            step=lineage.step,
            parent=None if lineage.parent is None else Digest(lineage.parent),
        )
    except BodyTooSlow as error:
        raise stalled(error) from error
    gateway.resolver.forget(caller.tenant_id, policy)
    return found


@router.post("/{policy}/revisions/{revision}/retire")
async def retire_revision(
    policy: str, revision: str, caller: TrainCaller, gateway: GatewayDep
) -> RevisionRecord:
    """Take a revision out of use: no name resolves to it. Refused while an alias points at it."""
    return await _set_state(gateway, caller, policy, revision, "retired")


@router.post("/{policy}/revisions/{revision}/restore")
async def restore_revision(
    policy: str, revision: str, caller: TrainCaller, gateway: GatewayDep
) -> RevisionRecord:
    """Put a retired or quarantined revision into use again."""
    return await _set_state(gateway, caller, policy, revision, "published")


async def _set_state(
    gateway: Gateway, caller: Caller, policy: str, revision: str, state: RevisionState
) -> RevisionRecord:
    changed = await gateway.registry.set_revision_state(caller.tenant_id, policy, Digest(revision), state)
    gateway.resolver.withdraw(caller.tenant_id, policy)
    return changed
