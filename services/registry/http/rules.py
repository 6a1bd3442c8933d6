"""Promotion rules."""

from collections.abc import Sequence

from fastapi import FastAPI

from mint_common.catalog import RuleRecord
from mint_common.ids import new_id
from services.registry.core.names import check_alias_name, policy_key
from services.registry.core.rules import check_rule
from services.registry.http.context import Body, Label, Registry, Tenant

_RULES = "/internal/tenants/{tenant_id}/policies/{policy}/rules"


class RuleBody(Body):
    """A new rule (`services.registry.core.rules`)."""

    alias: str
    suite: Label
    metric: Label
    at_least: float
    max_drop: float | None = None
    roll_back_below: float | None = None
    actor: Label


def add_rule_routes(http: FastAPI, registry: Registry) -> None:
    """Add rules."""

    @http.post(_RULES, status_code=201)
    async def create_rule(tenant_id: Tenant, policy: str, body: RuleBody) -> RuleRecord:
        check_alias_name(body.alias)
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        rule = RuleRecord(rule_id=new_id("rule"), created_at=registry.clock.now(), **body.model_dump())
        check_rule(rule)
        await registry.rules.add(found.policy_id, rule)
        return rule

    @http.get(_RULES)
    async def list_rules(tenant_id: Tenant, policy: str) -> Sequence[RuleRecord]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.rules.list(found.policy_id)

    @http.delete(_RULES + "/{rule_id}", status_code=204)
    async def remove_rule(tenant_id: Tenant, policy: str, rule_id: Label) -> None:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        await registry.rules.remove(found.policy_id, rule_id)
