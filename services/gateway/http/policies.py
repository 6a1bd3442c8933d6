"""``/mint/v1/policies`` and their revisions."""

from fastapi import APIRouter

from mint_common.catalog import PolicyRecord, RevisionRecord
from mint_common.ids import BaseName, Digest
from services.gateway.core.policies import PolicyRequest, check_name, plan_lora
from services.gateway.http.context import CallerDep, GatewayDep, LimitQuery

router = APIRouter(prefix="/mint/v1/policies", tags=["policies"])


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
