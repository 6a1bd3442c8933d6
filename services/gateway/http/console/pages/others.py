"""Pages of one list each: files, events, and the finder of answers."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.core.console.finding import digest_in
from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED = 100
"""Rows of a list."""
OWNERS = 20
"""Policies of one digest whose aliases are asked for."""


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
    """Show the revision that an answer came from, and how it became what answers."""
    digest = digest_in(q)
    found = await visit.get("mint", "v1", "revisions", digest) if digest else None
    moves = []
    if found is not None and found.is_ok:
        policies = [owner["policy"] for owner in found.data[:OWNERS]]
        aliases = await asyncio.gather(
            *(visit.get("mint", "v1", "policies", policy, "aliases") for policy in policies)
        )
        moves = list(zip(policies, aliases, strict=True))
    return visit.pages.show(visit, "find.html", section="find", q=q, digest=digest, found=found, moves=moves)
