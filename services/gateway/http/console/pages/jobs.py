"""``/console/jobs``: managed jobs, their curves, and what their steps were trained on."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.core.console.curves import curves_of, joined, phases_of
from services.gateway.core.console.token_spans import Colour, EpisodeView, SpanRoom, episode_views
from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED, COMPARED, LAST_STEPS = 100, 8, 20
"""Jobs of the list, jobs of a comparison, steps of a job's table."""


STEPS, STEP_EPISODES = 4, 4
"""Steps next to each other, and episodes of each."""
STEP_DIGITS = 9
"""Maximum digits of a step's number in an address."""
Text = Annotated[str, Query(max_length=200)]
Group = Annotated[int, Query(ge=0)]


@router.get("/console/jobs")
async def jobs(
    _caller: ReadCaller,
    visit: VisitDep,
    state: Text = "",
    policy: Text = "",
    after: Text = "",
) -> Response:
    """Show a page of the newest jobs, of one policy or in one state if asked."""
    filters = {"state": state, "policy": policy}
    found = await visit.get("mint", "v1", "jobs", limit=LISTED, after=after, **filters)
    return visit.pages.show(visit, "jobs.html", section="jobs", found=found, filters=filters, page=LISTED)


@router.get("/console/jobs/compare")
async def compare(
    _caller: ReadCaller, visit: VisitDep, job: Annotated[list[str] | None, Query(max_length=COMPARED)] = None
) -> Response:
    """Show the curves of several jobs over one axis of steps."""
    chosen = list(dict.fromkeys(job or []))
    answers = await asyncio.gather(*(visit.get("mint", "v1", "jobs", each) for each in chosen))
    found = [answer.data for answer in answers if answer.is_ok]
    curves = joined({each["job_id"]: curves_of(each["steps"]) for each in found})
    missing = [name for name, answer in zip(chosen, answers, strict=True) if not answer.is_ok]
    return visit.pages.show(visit, "compare.html", section="jobs", jobs=found, curves=curves, missing=missing)


@router.get("/console/jobs/{job}")
async def job(job: str, _caller: ReadCaller, visit: VisitDep) -> Response:
    """Show one job; to a script that follows it, the part of the page that changes."""
    if "hx-request" not in visit.request.headers:
        return await _shown(job, visit, "job.html")
    return await visit.shared.part(
        visit.caller.tenant_id, ("job", job), lambda: _shown(job, visit, "job_progress.html")
    )


async def _shown(job: str, visit: Visit, template: str) -> Response:
    found = await visit.get("mint", "v1", "jobs", job)
    if not found.is_ok:
        return visit.missing(found, "jobs")
    steps = found.data["steps"]
    return visit.pages.show(
        visit,
        template,
        section="jobs",
        job=found.data,
        curves=curves_of(steps),
        phases=phases_of(steps),
        last=steps[-LAST_STEPS:][::-1],
    )


@router.get("/console/jobs/{job}/rollouts")
async def rollouts(
    job: str,
    _caller: ReadCaller,
    visit: VisitDep,
    step: Annotated[int | None, Query(ge=1)] = None,
    group: Group = 0,
    *,
    wave: Text = "",
    colour: Colour = "likelihood",
) -> Response:
    """Show the episodes that a group of a step has, token by token; ``wave`` names the step by its wave."""
    found = await _group(visit, job, step, group, wave=wave)
    return visit.pages.show(
        visit,
        "rollouts.html",
        section="jobs",
        status=200 if found.is_ok else found.status,
        job=job,
        found=found,
        episodes=episode_views(found.data["episodes"], SpanRoom(), colour=colour) if found.is_ok else [],
        colour=colour,
        step=step,
        group=group,
    )


@router.get("/console/jobs/{job}/rollouts/steps")
async def rollout_steps(
    job: str,
    _caller: ReadCaller,
    visit: VisitDep,
    step: Annotated[list[str] | None, Query(max_length=STEPS)] = None,
    group: Group = 0,
    colour: Colour = "likelihood",
) -> Response:
    """Show a group of several steps next to each other; of one step or none, with others of the job."""
    named = {int(each) for each in step or [] if each.isdecimal() and len(each) <= STEP_DIGITS}
    steps = sorted(named - {0})
    known: dict[int, ApiAnswer] = {}
    if len(steps) < 2:
        newest = await _group(visit, job, None, group)
        if not newest.is_ok:
            return visit.missing(newest, "jobs")
        known = {newest.data["step"]: newest}
        steps = sorted({1, (newest.data["step"] + 1) // 2, *steps, newest.data["step"]})
    asked = [each for each in steps if each not in known]
    answers = await asyncio.gather(*(_group(visit, job, each, group) for each in asked))
    found = known | dict(zip(asked, answers, strict=True))
    room = SpanRoom()
    columns = [
        (each, found[each], _views(found[each], room, colour) if found[each].is_ok else ()) for each in steps
    ]
    return visit.pages.show(
        visit,
        "rollout_steps.html",
        section="jobs",
        job=job,
        group=group,
        steps=steps,
        columns=columns,
        most=STEPS,
        colour=colour,
    )


async def _group(visit: Visit, job: str, step: int | None, group: int, *, wave: str = "") -> ApiAnswer:
    return await visit.get(
        "mint", "v1", "jobs", job, "rollouts", step=step, wave=wave, group=group, token_texts=True
    )


def _views(found: ApiAnswer, room: SpanRoom, colour: Colour) -> list[EpisodeView]:
    return episode_views(found.data["episodes"][:STEP_EPISODES], room, colour=colour)
