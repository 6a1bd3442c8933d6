"""``/console/fine_tuning``: a job on a file, with its events, curves, files and revisions."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.core.console.curves import curves_of
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

EVENTS, CHECKPOINTS = 50, 100
"""Newest events of a page, and newest checkpoints."""


@router.get("/console/fine_tuning/{job}")
async def fine_tuning_job(
    job: str,
    _caller: ReadCaller,
    visit: VisitDep,
    after: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Show a job on a file and a page of its events; to a script that follows it, the part that changes."""
    if "hx-request" not in visit.request.headers:
        return await _shown(job, visit, "fine_tuning.html", after=after)
    return await visit.shared.part(
        visit.caller.tenant_id,
        ("fine tuning", job, after),
        lambda: _shown(job, visit, "fine_tuning_progress.html", after=after),
    )


async def _shown(job: str, visit: Visit, template: str, *, after: str) -> Response:
    place = ("v1", "fine_tuning", "jobs", job)
    found = await visit.get(*place)
    if not found.is_ok:
        return visit.missing(found, "files")
    named = [found.data["training_file"], found.data["validation_file"], *found.data["result_files"]]
    files = [each for each in named if each]
    events, checkpoints, managed, *records = await asyncio.gather(
        visit.get(*place, "events", limit=EVENTS, after=after),
        visit.get(*place, "checkpoints", limit=CHECKPOINTS),
        visit.get("mint", "v1", "jobs", found.data["mint"]["job_id"]),
        *(visit.get("v1", "files", each) for each in files),
    )
    return visit.pages.show(
        visit,
        template,
        section="files",
        job=found.data,
        events=events,
        after=after,
        checkpoints=checkpoints,
        managed=managed,
        curves=curves_of(managed.data["steps"]) if managed.is_ok else [],
        files=list(zip(files, records, strict=True)),
    )
