"""``/mint/v1/policies/{policy}/rules``: when a score moves an alias by itself."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from fastapi import APIRouter

from mint_common.catalog import RuleRecord
from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.policies import check_name
from services.gateway.http.edge.context import AdminCaller, GatewayDep, ReadCaller
from services.gateway.http.edge.recording import RecordedRoute

router = APIRouter(prefix="/mint/v1/policies/{policy}/rules", tags=["rules"], route_class=RecordedRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBody:
    """A newer revision takes ``alias`` over when ``metric`` in ``suite`` is at least ``at_least``.

    With ``max_drop`` it must not be worse than the live revision's newest score by more than that. The live
    revision is rolled back when it scores below ``roll_back_below``.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"suite": "held-out", "metric": "accuracy", "at_least": 0.7, "max_drop": 0.02, "roll_back_below": 0.5}
    )

    suite: str
    metric: str
    at_least: float
    alias: str = "prod"
    max_drop: float | None = None
    roll_back_below: float | None = None


@router.post("", status_code=201)
async def create_rule(policy: str, body: RuleBody, caller: AdminCaller, gateway: GatewayDep) -> RuleRecord:
    """Add a rule. Takes an admin key."""
    check_name("alias", body.alias)
    return await gateway.registry.create_rule(
        caller.tenant_id, policy, {**asdict(body), "actor": caller.actor}
    )


@router.get("")
async def list_rules(policy: str, caller: ReadCaller, gateway: GatewayDep) -> list[RuleRecord]:
    """List the rules of a policy."""
    return await gateway.registry.list_rules(caller.tenant_id, policy)


@router.delete("/{rule}", status_code=204)
async def remove_rule(policy: str, rule: str, caller: AdminCaller, gateway: GatewayDep) -> None:
    """Remove a rule. Takes an admin key."""
    await gateway.registry.remove_rule(caller.tenant_id, policy, rule)
