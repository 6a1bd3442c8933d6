"""``/console/policies/{policy}/rules``: which scores move a policy's aliases, and what the rules did."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response

from services.gateway.core.console.rule_views import decisions_of, scores_for
from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LOOKED = 1000
"""Newest events of the policy among which moves of rules and scores are looked for."""


@router.get("/console/policies/{policy}/rules")
async def rules(policy: str, _caller: ReadCaller, visit: VisitDep) -> Response:
    """Show the rules of a policy with their newest moves, and the scores that they look at."""
    place = ("mint", "v1", "policies", policy)
    found, timeline = await asyncio.gather(
        visit.get(*place, "rules"), visit.get(*place, "timeline", limit=LOOKED)
    )
    if found.status == 404:
        return visit.missing(found, "policies")
    listed: Sequence[Mapping[str, Any]] = found.data if found.is_ok else []
    events: Sequence[Mapping[str, Any]] = timeline.data if timeline.is_ok else []
    return visit.pages.show(
        visit,
        "rules.html",
        section="policies",
        policy=policy,
        rules=found,
        timeline=timeline,
        decisions=decisions_of(listed, events),
        scores=scores_for(listed, events),
        looked=LOOKED,
    )
