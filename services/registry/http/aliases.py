"""Aliases: compare-and-set, rollback, history; and the rules that move them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request

from mint_common.authority import Caller
from mint_common.catalog import AliasMove, AliasRecord, RuleRecord
from mint_common.catalog_requests import (
    FreezeBody,
    HistoryQuery,
    Label,
    LongPageQuery,
    MoveBody,
    ProtectBody,
    RemovalQuery,
    RollbackBody,
    RuleBody,
)
from mint_common.errors import AlreadyHandled, NotFound
from mint_common.ids import PolicyId, new_id
from mint_common.names import alias_key, check_alias_name, revision_key
from mint_common.runtime.edge_repeats import CauseHeader, RepeatableRoute
from services.registry.core.aliases import Mover
from services.registry.core.rules import check_rule, refuse_equal, rule_warnings
from services.registry.http.context import (
    CallerDep,
    DecidedHeader,
    PolicyDep,
    Registry,
    RegistryDep,
)

router = APIRouter(prefix="/internal/tenants/{tenant_id}/policies/{policy}", route_class=RepeatableRoute)


@router.get("/aliases")
async def list_aliases(
    policy: PolicyDep, page: Annotated[LongPageQuery, Query()], registry: RegistryDep
) -> Sequence[AliasRecord]:
    """Return aliases by name, without their histories."""
    return await registry.aliases.aliases(policy.policy_id, limit=page.limit, after=page.after)


@router.get("/aliases/{alias}")
async def get_alias(policy: PolicyDep, alias: str, registry: RegistryDep) -> AliasRecord:
    """Return an alias with its newest moves."""
    return await registry.aliases.alias(policy.policy_id, alias_key(alias))


@router.get("/aliases/{alias}/history")
async def list_history(
    policy: PolicyDep, alias: str, page: Annotated[HistoryQuery, Query()], registry: RegistryDep
) -> Sequence[AliasMove]:
    """Return an alias's moves, newest first."""
    name = alias_key(alias)
    return await registry.aliases.history(policy.policy_id, name, limit=page.limit, before=page.before)


@router.post("/aliases/{alias}/protect")
async def protect_alias(
    policy: PolicyDep, alias: str, body: ProtectBody, registry: RegistryDep, cause: CauseHeader = None
) -> AliasRecord:
    """Allow moves of an alias to admins and rules only, or to every key with train."""
    name = alias_key(alias)
    return await registry.aliases.set_flags(policy.policy_id, name, protected=body.protected, cause=cause)


@router.post("/aliases/{alias}/freeze")
async def freeze_alias(
    policy: PolicyDep, alias: str, body: FreezeBody, registry: RegistryDep, cause: CauseHeader = None
) -> AliasRecord:
    """Stop rules from moving an alias, or allow it again."""
    name = alias_key(alias)
    return await registry.aliases.set_flags(policy.policy_id, name, frozen=body.frozen, cause=cause)


@router.put("/aliases/{alias}")
async def move_alias(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request,
    policy: PolicyDep,
    alias: str,
    body: MoveBody,
    caller: CallerDep,
    registry: RegistryDep,
    cause: CauseHeader = None,
    decided_at: DecidedHeader = None,
) -> AliasRecord:
    """Point an alias at a revision; one that this cause has moved before stays where it is."""
    check_alias_name(alias)
    revision = await registry.catalog.revision(policy.policy_id, revision_key(str(body.revision)))
    mover = replace(_mover(registry, caller, body.reason), cause=cause, decided_at=decided_at)
    try:
        return await registry.aliases.move(policy, alias, revision.ref, mover, expected=body.expected)
    except AlreadyHandled:
        if await request.app.state.ledger.first_answer(cause or "") is not None:
            raise  # `RepeatableRoute` gives that answer
        return await registry.aliases.alias(policy.policy_id, alias)  # so long ago that it is kept no more


@router.post("/aliases/{alias}/rollback")
async def roll_back_alias(  # noqa: PLR0917  # FastAPI passes them by name
    policy: PolicyDep,
    alias: str,
    caller: CallerDep,
    registry: RegistryDep,
    body: RollbackBody | None = None,
    cause: CauseHeader = None,
) -> AliasRecord:
    """Roll an alias back to its previous revision."""
    wish = body or RollbackBody()
    mover = replace(_mover(registry, caller, wish.reason), cause=cause)
    return await registry.aliases.roll_back(policy, alias_key(alias), mover, expected=wish.expected)


@router.delete("/aliases/{alias}", status_code=204)
async def remove_alias(  # noqa: PLR0917  # FastAPI passes them by name
    policy: PolicyDep,
    alias: str,
    caller: CallerDep,
    registry: RegistryDep,
    query: Annotated[RemovalQuery, Query()],
    cause: CauseHeader = None,
) -> None:
    """Remove an alias; its history stays."""
    mover = replace(_mover(registry, caller, query.reason), cause=cause)
    await registry.aliases.remove(policy, alias_key(alias), mover)


@router.post("/rules", status_code=201)
async def create_rule(
    policy: PolicyDep, body: RuleBody, caller: CallerDep, registry: RegistryDep, cause: CauseHeader = None
) -> RuleRecord:
    """Add a rule; the answer has its warnings."""
    check_alias_name(body.alias)
    rule = RuleRecord(
        rule_id=new_id("rule"), created_at=registry.clock.now(), actor=caller.actor, **body.model_dump()
    )
    check_rule(rule)
    refuse_equal(rule, await registry.rules.list(policy.policy_id))
    seen = await registry.evaluations.seen(policy.policy_id, suite=rule.suite, metric=rule.metric)
    is_frozen = await _is_frozen(registry, policy.policy_id, rule.alias)
    rule = replace(rule, warnings=rule_warnings(rule, seen, is_frozen=is_frozen))
    await registry.rules.add(policy.policy_id, rule, cause=cause)
    return rule


@router.get("/rules")
async def list_rules(policy: PolicyDep, registry: RegistryDep) -> Sequence[RuleRecord]:
    """Return a policy's rules."""
    return await registry.rules.list(policy.policy_id)


@router.post("/rules/{rule}/pause")
async def pause_rule(
    policy: PolicyDep, rule: Label, registry: RegistryDep, cause: CauseHeader = None
) -> RuleRecord:
    """Pause a rule."""
    return await registry.rules.pause(policy.policy_id, rule, paused=True, cause=cause)


@router.post("/rules/{rule}/resume")
async def resume_rule(
    policy: PolicyDep, rule: Label, registry: RegistryDep, cause: CauseHeader = None
) -> RuleRecord:
    """Resume a paused rule."""
    return await registry.rules.pause(policy.policy_id, rule, paused=False, cause=cause)


@router.delete("/rules/{rule}", status_code=204)
async def remove_rule(
    policy: PolicyDep, rule: Label, registry: RegistryDep, cause: CauseHeader = None
) -> None:
    """Remove a rule."""
    await registry.rules.remove(policy.policy_id, rule, cause=cause)


async def _is_frozen(registry: Registry, policy_id: PolicyId, alias: str) -> bool:
    try:
        return (await registry.aliases.alias(policy_id, alias)).frozen
    except NotFound:
        return False


def _mover(registry: Registry, caller: Caller, reason: str) -> Mover:
    return Mover(actor=caller.actor, reason=reason, at=registry.clock.now(), is_admin=caller.is_admin)
