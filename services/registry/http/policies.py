"""Policies."""

from collections.abc import Sequence

from fastapi import FastAPI

from mint_common.catalog import PolicyRecord
from mint_common.ids import BaseName, PolicyId, new_id
from services.registry.core.lora import plan_lora
from services.registry.core.names import check_policy_name, policy_key
from services.registry.http.context import Body, Label, Limit, Registry, Tenant, TextCursor


class LoraBody(Body):
    """The wished LoRA shape; without targets it has all of the base."""

    rank: int
    alpha: float
    targets: tuple[Label, ...] | None = None
    seed: int


class PolicyBody(Body):
    """A new policy."""

    name: str
    base: Label
    lora: LoraBody


def add_policy_routes(http: FastAPI, registry: Registry) -> None:
    """Add policies."""

    @http.post("/internal/tenants/{tenant_id}/policies", status_code=201)
    async def create_policy(tenant_id: Tenant, body: PolicyBody) -> PolicyRecord:
        check_policy_name(body.name)
        facts = await registry.catalog.base(body.base)
        wish = body.lora
        lora = plan_lora(facts, rank=wish.rank, alpha=wish.alpha, targets=wish.targets, seed=wish.seed)
        policy = PolicyRecord(
            policy_id=PolicyId(new_id("pol")),
            tenant_id=tenant_id,
            name=body.name,
            base=BaseName(body.base),
            lora=lora,
            created_at=registry.clock.now(),
            latest=None,
        )
        await registry.catalog.add_policy(policy)
        return policy

    @http.get("/internal/tenants/{tenant_id}/policies")
    async def list_policies(
        tenant_id: Tenant, limit: Limit = 100, after: TextCursor = None
    ) -> Sequence[PolicyRecord]:
        return await registry.catalog.policies(tenant_id, limit=limit, after=after)

    @http.get("/internal/tenants/{tenant_id}/policies/{policy}")
    async def get_policy(tenant_id: Tenant, policy: str) -> PolicyRecord:
        return await registry.catalog.policy(tenant_id, policy_key(policy))
