"""``/console/evaluations``: runs over prompts, and their rows."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED, ROWS = 100, 50
"""Runs of the list, rows of a run's page."""


@router.get("/console/evaluations")
async def runs(
    _caller: ReadCaller, visit: VisitDep, after: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Show a page of the newest runs."""
    found = await visit.get("mint", "v1", "evaluations", "run", limit=LISTED, after=after)
    return visit.pages.show(visit, "evaluations.html", section="evaluations", found=found, page=LISTED)


@router.get("/console/evaluations/{run}")
async def run(run: str, _caller: ReadCaller, visit: VisitDep) -> Response:
    """Show a run and its first rows."""
    place = ("mint", "v1", "evaluations", "run", run)
    found, rows = await asyncio.gather(visit.get(*place), visit.get(*place, "rows", limit=ROWS))
    if not found.is_ok:
        return visit.missing(found, "evaluations")
    return visit.pages.show(visit, "evaluation.html", section="evaluations", run=found.data, rows=rows)
