"""``/console/policies/{policy}/rules``: which scores move a policy's aliases, and what the rules did."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response

from services.gateway.core.console.rule_views import LIMITS, decisions_of, scores_for, verdict
from services.gateway.http.console.api import ApiAnswer
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


@router.get("/console/policies/{policy}/rules/{rule}")
async def one_rule(policy: str, rule: str, _caller: ReadCaller, visit: VisitDep) -> Response:
    """Show a rule: its limits, the alias that it moves, its newest moves and the scores that it looks at."""
    place = ("mint", "v1", "policies", policy)
    rules, timeline = await asyncio.gather(
        visit.get(*place, "rules"), visit.get(*place, "timeline", limit=LOOKED)
    )
    if not rules.is_ok:
        return visit.missing(rules, "policies")
    found = next((each for each in rules.data if each["rule_id"] == rule), None)
    if found is None:
        absent = ApiAnswer(status=404, problem=f"The policy {policy} has no rule {rule[:100]!r}.")
        return visit.missing(absent, "policies")
    events: Sequence[Mapping[str, Any]] = timeline.data if timeline.is_ok else []
    return visit.pages.show(
        visit,
        "rule.html",
        section="policies",
        policy=policy,
        rule=found,
        alias=await visit.get(*place, "aliases", found["alias"]),
        timeline=timeline,
        moves=decisions_of([found], events)[rule],
        scores=[(score, verdict(found, score["value"])) for score in scores_for([found], events)[rule]],
        fields=[field for field in LIMITS if found[field] is not None],
        looked=LOOKED,
    )
