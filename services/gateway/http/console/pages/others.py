"""Pages of one list each: files, events, and the finder of answers."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mint_common.answer_ids import digest_prefix_in, is_base_answer
from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.pages.policies import PERIODS
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED = 100
"""Rows of a list."""
OWNERS = 5
"""Revisions of one digest that are shown."""


@router.get("/console/files")
async def files(_caller: ReadCaller, visit: VisitDep) -> Response:
    """Show files and the jobs of the fine-tuning API."""
    found, jobs = await asyncio.gather(
        visit.get("v1", "files", limit=LISTED), visit.get("v1", "fine_tuning", "jobs", limit=LISTED)
    )
    return visit.pages.show(visit, "files.html", section="files", found=found, jobs=jobs)


@router.get("/console/events")
async def events(_caller: ReadCaller, visit: VisitDep) -> Response:
    """Show events as they happen, which a script reads from the event stream."""
    return visit.pages.show(visit, "events.html", section="events")


@router.get("/console/find")
async def find(
    _caller: ReadCaller, visit: VisitDep, q: Annotated[str, Query(max_length=500)] = ""
) -> Response:
    """Show the revision that an answer came from, what made it and which aliases pointed at it."""
    prefix = digest_prefix_in(q)
    found = await visit.get("mint", "v1", "revisions", prefix) if prefix else None
    shown = found.data[:OWNERS] if found is not None and found.is_ok else []
    return visit.pages.show(
        visit,
        "find.html",
        section="find",
        q=q,
        found=found,
        is_base=is_base_answer(q),
        most=PERIODS,
        owners=await asyncio.gather(*(_described(visit, owner) for owner in shown)),
    )


async def _described(visit: Visit, owner: dict[str, Any]) -> tuple[dict[str, Any], ApiAnswer, ApiAnswer]:
    """Return an owned revision with its record and the periods of its aliases."""
    place = ("mint", "v1", "policies", owner["policy"], "revisions", owner["revision"]["number"])
    revision, periods = await asyncio.gather(visit.get(*place), visit.get(*place, "aliases", limit=PERIODS))
    return owner, revision, periods
