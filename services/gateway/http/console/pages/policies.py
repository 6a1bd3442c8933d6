"""``/console/policies``: policies, their revisions and aliases."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

PAGE, REVISIONS, MOVES = 50, 50, 50
"""Policies of a page, revisions of a policy's page, moves of an alias's."""
EVENTS, TIMELINE = 20, 100
"""Events of a policy's page, and of its timeline's."""
PERIODS = 100
"""Periods in which aliases pointed at a revision, of its page."""

Text = Annotated[str, Query(max_length=200)]


@router.get("/console/policies")
async def policies(  # FastAPI passes them by name
    _caller: ReadCaller,
    visit: VisitDep,
    after: Text = "",
    base: Text = "",
    labels: Annotated[str, Query(max_length=5000)] = "",
    name: Text = "",
) -> Response:
    """Show a page of policies that match the filters of the address."""
    filters = {"base": base, "labels": labels}
    found, bases = await asyncio.gather(
        visit.get("mint", "v1", "policies", limit=PAGE, after=after, prefix=name, **filters),
        visit.get("mint", "v1", "bases"),
    )
    return visit.pages.show(
        visit,
        "policies.html",
        section="policies",
        found=found,
        bases=bases,
        filters={**filters, "name": name},
        page=PAGE,
    )


@router.get("/console/policies/{policy}")
async def policy(
    policy: str, _caller: ReadCaller, visit: VisitDep, after: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """Show one policy."""
    place = ("mint", "v1", "policies", policy)
    found = await visit.get(*place)
    if not found.is_ok:
        return visit.missing(found, "policies")
    newest = found.data["latest"]
    if after is None:
        after = max(0, newest["number"] - REVISIONS) if newest else 0
    revisions, aliases, scores, timeline = await asyncio.gather(
        visit.get(*place, "revisions", limit=REVISIONS, after=after),
        visit.get(*place, "aliases"),
        visit.get(*place, "evaluations", limit=200),
        visit.get(*place, "timeline", limit=EVENTS),
    )
    return visit.pages.show(
        visit,
        "policy.html",
        section="policies",
        policy=found.data,
        revisions=revisions,
        aliases=aliases,
        scores=scores,
        timeline=timeline,
        after=after,
        page=REVISIONS,
    )


@router.get("/console/policies/{policy}/timeline")
async def timeline(
    policy: str,
    _caller: ReadCaller,
    visit: VisitDep,
    before: Annotated[str, Query(max_length=300)] = "",
) -> Response:
    """Show what happened to a policy, newest first."""
    place = ("mint", "v1", "policies", policy, "timeline")
    found = await visit.get(*place, limit=TIMELINE, before=before)
    if not found.is_ok:
        return visit.missing(found, "policies")
    return visit.pages.show(
        visit,
        "timeline.html",
        section="policies",
        policy=policy,
        found=found,
        before=before,
        page=TIMELINE,
    )


@router.get("/console/policies/{policy}/revisions/{revision}")
async def revision(
    policy: str, revision: str, _caller: ReadCaller, visit: VisitDep, against: Text = ""
) -> Response:
    """Show one revision: its lineage, and how it differs from its parent or another one."""
    place = ("mint", "v1", "policies", policy, "revisions", revision)
    found = await visit.get(*place)
    if not found.is_ok:
        return visit.missing(found, "policies")
    lineage, diff, periods = await asyncio.gather(
        visit.get(*place, "lineage", ancestors=20, descendants=5),
        visit.get(*place, "diff", against=against),
        visit.get(*place, "aliases", limit=PERIODS),
    )
    return visit.pages.show(
        visit,
        "revision.html",
        section="policies",
        policy=policy,
        revision=found.data,
        lineage=lineage,
        diff=diff,
        periods=periods,
        most=PERIODS,
        against=against,
    )


@router.get("/console/policies/{policy}/aliases/{alias}")
async def alias(policy: str, alias: str, _caller: ReadCaller, visit: VisitDep) -> Response:
    """Show an alias and its moves, newest first."""
    place = ("mint", "v1", "policies", policy, "aliases", alias)
    found = await visit.get(*place)
    if not found.is_ok:
        return visit.missing(found, "policies")
    history = await visit.get(*place, "history", limit=MOVES)
    return visit.pages.show(
        visit,
        "alias.html",
        section="policies",
        policy=policy,
        alias=found.data,
        history=history,
        typed={},
        refused=None,
    )
