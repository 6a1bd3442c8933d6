"""``/console``: what is there, what runs, what needs a person, and which revisions cannot be served."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.core.console.advice import NAMED, advice_for
from services.gateway.core.console.quota_rows import quota_rows
from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

SHOWN_JOBS = 100
"""Newest jobs that are looked at for running and failed ones."""
SHOWN_FAULTY = 100
"""Faulty revisions of a page."""
RECENT, TIMELINE = 10, 100
"""Entries of the tenant's timeline here, and of a page of its own."""
_OPEN = frozenset({"submitted", "running", "paused"})


@router.get("/console")
async def overview(_caller: ReadCaller, visit: VisitDep) -> Response:
    """Show bases, engines, open jobs, quotas, advice and what happened last."""
    bases, engines, jobs, usage, faulty, timeline = await asyncio.gather(
        visit.get("mint", "v1", "bases"),
        visit.get("mint", "v1", "engines"),
        visit.get("mint", "v1", "jobs", limit=SHOWN_JOBS),
        visit.get("mint", "v1", "usage"),
        visit.get("mint", "v1", "revisions", "faulty", limit=NAMED + 1),
        visit.get("mint", "v1", "timeline", limit=RECENT),
    )
    open_jobs = [job for job in jobs.data if job["state"] in _OPEN] if jobs.is_ok else []
    ended = [job for job in jobs.data if job["state"] not in _OPEN][:5] if jobs.is_ok else []
    quotas = quota_rows(usage.data if usage.is_ok else [])
    advice = advice_for(
        engines.data if engines.is_ok else [],
        [*open_jobs, *ended],
        faulty.data if faulty.is_ok else [],
        quotas,
    )
    return visit.pages.show(
        visit,
        "overview.html",
        section="overview",
        bases=bases,
        engines=engines,
        jobs=jobs,
        open_jobs=open_jobs,
        ended=ended,
        usage=usage,
        faulty=faulty,
        quotas=quotas,
        advice=advice,
        timeline=timeline,
    )


@router.get("/console/faulty")
async def faulty(
    _caller: ReadCaller, visit: VisitDep, after: Annotated[str, Query(max_length=120)] = ""
) -> Response:
    """Show quarantined and lost revisions of all policies."""
    found = await visit.get("mint", "v1", "revisions", "faulty", limit=SHOWN_FAULTY, after=after)
    return visit.pages.show(visit, "faulty.html", section="policies", found=found, page=SHOWN_FAULTY)


@router.get("/console/timeline")
async def timeline(
    _caller: ReadCaller, visit: VisitDep, before: Annotated[str, Query(max_length=300)] = ""
) -> Response:
    """Show what happened to all policies of the tenant, newest first."""
    found = await visit.get("mint", "v1", "timeline", limit=TIMELINE, before=before)
    if found.status == 422:
        return visit.missing(found, "overview")
    return visit.pages.show(
        visit,
        "timeline.html",
        section="overview",
        policy="",
        found=found,
        before=before,
        page=TIMELINE,
    )
