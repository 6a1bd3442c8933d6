"""``/console``: what is there, what runs, and what needs a person."""

import asyncio

from fastapi import APIRouter, Response

from services.gateway.core.console.advice import advice_for
from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

SHOWN_JOBS = 100
"""Newest jobs that are looked at for running and failed ones."""
_OPEN = frozenset({"submitted", "running", "paused"})


@router.get("/console")
async def overview(_caller: ReadCaller, visit: VisitDep) -> Response:
    """Show bases, engines, open jobs and advice."""
    bases, engines, jobs, policies = await asyncio.gather(
        visit.get("mint", "v1", "bases"),
        visit.get("mint", "v1", "engines"),
        visit.get("mint", "v1", "jobs", limit=SHOWN_JOBS),
        visit.get("mint", "v1", "policies", limit=1),
    )
    open_jobs = [job for job in jobs.data if job["state"] in _OPEN] if jobs.is_ok else []
    ended = [job for job in jobs.data if job["state"] not in _OPEN][:5] if jobs.is_ok else []
    advice = advice_for(engines.data if engines.is_ok else [], [*open_jobs, *ended])
    return visit.pages.show(
        visit,
        "overview.html",
        section="overview",
        bases=bases,
        engines=engines,
        jobs=jobs,
        open_jobs=open_jobs,
        ended=ended,
        policies=policies,
        advice=advice,
    )
