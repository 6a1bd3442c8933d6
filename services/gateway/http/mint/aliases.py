"""Aliases: mutable names with compare-and-set and rollback; and the rules that move them."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import ConfigDict, StrictBool

from mint_common.catalog import AliasMove, AliasRecord, RuleRecord
from mint_common.catalog_requests import (
    FreezeBody,
    HistoryQuery,
    LongPageQuery,
    MoveBody,
    ProtectBody,
    RemovalQuery,
    RollbackBody,
    RuleBody,
)
from mint_common.errors import RevisionNotReady
from mint_common.ids import Digest, TenantId
from mint_common.names import check_alias_name
from mint_common.runtime.edge_routes import include_routes
from services.gateway.http.edge.recording import RecordedRoute, creates
from services.gateway.http.mint.context import CatalogDep, CatalogParts
from services.gateway.http.mint.forwarding import (
    AdminCatalog,
    AliasPath,
    PolicyPath,
    ReadCatalog,
    TrainCatalog,
)

READY_SECONDS = 20.0
"""Time that a move with `wait_ready` waits for its revision; clients and proxies often wait 30 s."""

RulePath = Annotated[str, Path(alias="rule")]

_PREFIX = "/mint/v1/policies/{policy}"
_aliases = APIRouter(prefix=f"{_PREFIX}/aliases", tags=["aliases"], route_class=RecordedRoute)
_rules = APIRouter(prefix=f"{_PREFIX}/rules", tags=["rules"], route_class=RecordedRoute)


class PromoteBody(MoveBody):
    """The target of the alias; ``expected`` is the digest that it must point at now.

    An empty ``expected`` requires that the alias does not exist yet; without ``expected`` the alias is moved
    unconditionally. With ``wait_ready`` the revision is loaded first, and the alias answers with the old one
    until it is ready.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"revision": 2, "reason": "accuracy 0.75", "wait_ready": False}]}
    )

    wait_ready: StrictBool = False


@_aliases.get("", response_model=list[AliasRecord])
async def list_aliases(
    _policy: PolicyPath, _page: Annotated[LongPageQuery, Query()], catalog: ReadCatalog
) -> Response:
    """List the aliases of a policy by name; ``after`` is the last name of the previous page."""
    return await catalog.forward()


@_aliases.get("/{alias}", response_model=AliasRecord)
async def get_alias(_policy: PolicyPath, _alias: AliasPath, catalog: ReadCatalog) -> Response:
    """Return where an alias points, with its newest 100 moves; ``/history`` has all of them."""
    return await catalog.forward()


@_aliases.get("/{alias}/history", response_model=list[AliasMove])
async def list_history(
    _policy: PolicyPath, _alias: AliasPath, _page: Annotated[HistoryQuery, Query()], catalog: ReadCatalog
) -> Response:
    """List an alias's moves, newest first; ``before`` is the last sequence of the previous page."""
    return await catalog.forward()


@_aliases.post("/{alias}/protect", response_model=AliasRecord)
async def protect(
    _policy: PolicyPath, _alias: AliasPath, _body: ProtectBody, catalog: AdminCatalog
) -> Response:
    """Refuse moves and rollbacks by keys without the scope admin, or allow them again. Needs an admin key.

    Rules still move a protected alias; freeze it to stop them. ``moved_by`` in the answer lists what can move
    it.
    """
    return await catalog.forward()


@_aliases.post("/{alias}/freeze", response_model=AliasRecord)
async def freeze(
    _policy: PolicyPath, _alias: AliasPath, _body: FreezeBody, catalog: AdminCatalog
) -> Response:
    """Stop rules from moving an alias, or allow it again. Keys can still move it. Needs an admin key."""
    return await catalog.forward()


@_aliases.put("/{alias}", response_model=AliasRecord)
async def promote(
    policy: PolicyPath, alias: AliasPath, body: PromoteBody, parts: CatalogDep, catalog: TrainCatalog
) -> Response:
    """Point an alias at a revision. 412 when ``expected`` is not what it points at.

    503 when the revision that ``wait_ready`` waits for is not ready in time; the alias has not moved then.
    """
    check_alias_name(alias)
    if body.wait_ready:
        revision = body.revision if isinstance(body.revision, int) else Digest(body.revision)
        await await_ready(parts, catalog.caller.tenant_id, policy, revision)
    moved = await catalog.forward(msgspec.json.encode(body.model_dump(exclude={"wait_ready"})))
    parts.resolver.forget(catalog.caller.tenant_id, policy)
    return moved


@_aliases.post("/{alias}/rollback", response_model=AliasRecord)
async def roll_back(
    policy: PolicyPath,
    _alias: AliasPath,
    parts: CatalogDep,
    catalog: TrainCatalog,
    _body: Annotated[RollbackBody | None, Body(title="Body")] = None,
) -> Response:
    """Point an alias at its previous revision; its history gets a new row and loses none."""
    moved = await catalog.forward()
    parts.resolver.forget(catalog.caller.tenant_id, policy)
    return moved


@_aliases.delete("/{alias}", status_code=204)
async def remove_alias(
    policy: PolicyPath,
    _alias: AliasPath,
    _query: Annotated[RemovalQuery, Query()],
    parts: CatalogDep,
    catalog: TrainCatalog,
) -> Response:
    """Remove an alias. 422 while a rule moves it; a protected one needs an admin key.

    Its history stays, and goes on if an alias of that name is made again. Without `prod` the name of the
    policy means its newest revision.
    """
    answer = await catalog.forward()
    parts.resolver.forget(catalog.caller.tenant_id, policy)
    return answer


@_rules.post("", status_code=201, response_model=RuleRecord, dependencies=[creates("rule_id")])
async def create_rule(_policy: PolicyPath, _body: RuleBody, catalog: AdminCatalog) -> Response:
    """Add a rule. Needs an admin key. ``warnings`` say why it may never move its alias.

    A rule never returns to a revision that a person rolled back from, until a person points the alias there
    again.
    """
    return await catalog.forward()


@_rules.get("", response_model=list[RuleRecord])
async def list_rules(_policy: PolicyPath, catalog: ReadCatalog) -> Response:
    """List the rules of a policy."""
    return await catalog.forward()


@_rules.post("/{rule}/pause", response_model=RuleRecord)
async def pause_rule(_policy: PolicyPath, _rule: RulePath, catalog: AdminCatalog) -> Response:
    """Stop a rule from moving its alias.

    Takes an admin key. Scores recorded while it is paused never move the alias.
    """
    return await catalog.forward()


@_rules.post("/{rule}/resume", response_model=RuleRecord)
async def resume_rule(_policy: PolicyPath, _rule: RulePath, catalog: AdminCatalog) -> Response:
    """Resume a paused rule; it acts on scores recorded from now on. Needs an admin key."""
    return await catalog.forward()


@_rules.delete("/{rule}", status_code=204)
async def remove_rule(_policy: PolicyPath, _rule: RulePath, catalog: AdminCatalog) -> Response:
    """Remove a rule. Needs an admin key."""
    return await catalog.forward()


async def await_ready(parts: CatalogParts, tenant_id: TenantId, policy: str, revision: int | Digest) -> None:
    """Load a revision on the engine that its requests go to, and return when it is ready.

    Raises RevisionNotReady after `READY_SECONDS`, and as `EngineClient.prewarm`.
    """
    base = (await parts.registry.get_policy(tenant_id, policy)).base
    ref = (await parts.registry.get_revision(tenant_id, policy, revision)).ref
    try:
        async with asyncio.timeout(READY_SECONDS):
            engine = await parts.engines.find(base, digest=ref.digest)
            parts.engines.believe(engine, await engine.prewarm(ref, tenant_id=tenant_id))
    except TimeoutError as error:
        raise RevisionNotReady(number=ref.number, name=policy, seconds=READY_SECONDS) from error


router = APIRouter()
include_routes(router, _aliases, _rules)
