"""Policies."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import Field, StrictInt

from mint_common.catalog import PolicyFilter, PolicyRecord
from mint_common.events import Retention
from mint_common.ids import BaseName, PolicyId, new_id
from services.registry.core.lora import plan_lora
from services.registry.core.names import check_policy_name, policy_key
from services.registry.core.policies import PolicyChange, check_description, parse_labels
from services.registry.http.context import (
    Body,
    Label,
    Limit,
    Moment,
    Registry,
    Tenant,
    TextCursor,
    TextFilter,
)

_POLICIES = "/internal/tenants/{tenant_id}/policies"


class LoraBody(Body):
    """The wished LoRA shape; without targets it has all of the base."""

    rank: int
    alpha: float
    targets: tuple[Label, ...] | None = None
    seed: int


class RetentionBody(Body):
    """Which revisions stay (`mint_common.events.Retention`)."""

    keep_last: StrictInt | None = None
    keep_days: StrictInt | None = None

    def to_retention(self) -> Retention:
        """Return the value."""
        return Retention(keep_last=self.keep_last, keep_days=self.keep_days)


class PolicyBody(Body):
    """A new policy."""

    name: str
    base: Label
    lora: LoraBody
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    retention: RetentionBody = RetentionBody()


class PolicyChangeBody(Body):
    """What shall be otherwise: null clears, what is not named stays. ``expected`` is its ``changed`` now."""

    description: str | None = None
    labels: dict[str, str | None] | None = None
    retention: RetentionBody | None = None
    expected: StrictInt | None = None

    def to_change(self, policy: PolicyRecord) -> PolicyChange:
        """Return the change of this policy."""
        said = self.model_fields_set
        change: dict[str, Any] = {}  # Any: the fields of PolicyChange
        if "description" in said:
            change["description"] = self.description or ""
        if "labels" in said:
            change["labels"] = dict.fromkeys(policy.labels) if self.labels is None else self.labels
        if "retention" in said:
            change["retention"] = (self.retention or RetentionBody()).to_retention()
            if self.retention is not None:
                change["of_retention"] = frozenset(self.retention.model_fields_set)
        return PolicyChange(**change)


def _wanted(
    base: TextFilter = None,
    labels: Annotated[str | None, Query(max_length=5000)] = None,
    created_after: Moment = None,
    created_before: Moment = None,
) -> PolicyFilter:
    return PolicyFilter(
        base=base,
        labels=() if labels is None else parse_labels(labels),
        created_after=created_after,
        created_before=created_before,
    )


def add_policy_routes(http: FastAPI, registry: Registry) -> None:
    """Add policies."""

    @http.post(_POLICIES, status_code=201)
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
            description=body.description,
            labels=dict(sorted(body.labels.items())),
            retention=body.retention.to_retention(),
        )
        check_description(policy)
        await registry.catalog.add_policy(policy)
        return policy

    @http.get(_POLICIES)
    async def list_policies(
        tenant_id: Tenant,
        wanted: Annotated[PolicyFilter, Depends(_wanted)],
        limit: Limit = 100,
        after: TextCursor = None,
    ) -> Sequence[PolicyRecord]:
        return await registry.catalog.policies(tenant_id, wanted, limit=limit, after=after)

    @http.get(_POLICIES + "/{policy}")
    async def get_policy(tenant_id: Tenant, policy: str) -> PolicyRecord:
        return await registry.catalog.policy(tenant_id, policy_key(policy))

    @http.patch(_POLICIES + "/{policy}")
    async def change_policy(tenant_id: Tenant, policy: str, body: PolicyChangeBody) -> PolicyRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        change = body.to_change(found)
        return await registry.catalog.change_policy(found.policy_id, change, expected=body.expected)
