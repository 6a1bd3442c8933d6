"""Routes about jobs on files, as OpenAI's API has them, and about graders tried out before."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from mint_common.errors import InvalidField
from mint_common.fine_tuning_requests import FineTuningBody
from mint_common.ids import TenantId
from mint_common.job_requests import GraderRunBody, ValidateBody
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import BodyRoute, include_routes
from services.rollout.core.files.answers import page_answer
from services.rollout.core.fine_tuning.answers import checkpoints, job_answer, metadata_wanted, page_of
from services.rollout.core.fine_tuning.events import job_events
from services.rollout.core.fine_tuning.names import job_id_of
from services.rollout.core.fine_tuning.refusals import job_ended
from services.rollout.core.job import JobState
from services.rollout.core.job_view import JobProgress, status_of
from services.rollout.core.progress import Progress
from services.rollout.handlers.graders import checked_grader, try_grader
from services.rollout.http.context import CallerDep, Cause, PartsDep, Tenant, TenantParts
from services.rollout.http.jobs import in_progress, job_progress

PREFIX = "/internal/tenants/{tenant_id}/openai/fine_tuning"
MAX_JOBS, MAX_ITEMS = 100, 1000
"""Maximum on a page, whatever is asked for: jobs, and events or checkpoints."""

Verb = Literal["cancel", "pause", "resume"]
Limit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]


_jobs = APIRouter(prefix=f"{PREFIX}/jobs", route_class=BodyRoute)
_graders = APIRouter(prefix=f"{PREFIX}/alpha/graders", route_class=BodyRoute)


async def _found(parts: TenantParts, tenant_id: TenantId, name: str, *, steps: bool = False) -> JobProgress:
    job = await parts.tenant_jobs.on_file(tenant_id, job_id_of(name), name=name)
    return await job_progress(parts.jobs, job, parts.trainers, steps=steps)


def _shown(parts: TenantParts, job: JobProgress) -> JsonObject:
    return job_answer(job, at=parts.clock.now())


@_jobs.post("")
async def create_job(body: FineTuningBody, caller: CallerDep, parts: PartsDep, cause: Cause) -> JsonObject:
    """Make a job on a file."""
    job = await parts.on_files.make(caller, body, cause=cause)
    return _shown(parts, JobProgress(job=job, progress=Progress()))


@_jobs.get("")
async def list_jobs(
    tenant_id: Tenant, request: Request, parts: PartsDep, limit: Limit = 20, after: After = None
) -> JsonObject:
    """Return a page of the tenant's jobs on files."""
    most = min(limit, MAX_JOBS)
    page = await parts.tenant_jobs.page_on_files(
        tenant_id,
        metadata=metadata_wanted(request.query_params.multi_items()),
        after=None if after is None else job_id_of(after),
        limit=most + 1,
    )
    return page_answer(
        await in_progress(parts.jobs, page, parts.trainers), partial(_shown, parts), limit=most
    )


@_jobs.get("/{name}")
async def get_job(tenant_id: Tenant, name: str, parts: PartsDep) -> JsonObject:
    """Return a job."""
    return _shown(parts, await _found(parts, tenant_id, name))


@_jobs.post("/{name}/{verb}")
async def steer_job(tenant_id: Tenant, name: str, verb: Verb, parts: PartsDep) -> JsonObject:
    """Stop a job, let it rest after its open step, or let it go on. Idempotent."""
    job = await parts.tenant_jobs.on_file(tenant_id, job_id_of(name), name=name)
    try:
        match verb:
            case "cancel":
                await parts.of_jobs.commits.cancel(job.job_id)
            case "pause":
                await parts.of_jobs.commits.pause(job)
            case "resume":
                await parts.of_jobs.resume(job)
    except InvalidField:  # it has ended, perhaps just now
        if not (await _found(parts, tenant_id, name)).is_ended:
            raise
    now = await _found(parts, tenant_id, name)
    if now.is_ended and (verb, now.job.state) != ("cancel", JobState.CANCELLED):
        raise job_ended(name, status_of(now.job), verb)
    return _shown(parts, now)


@_jobs.get("/{name}/events")
async def list_events(
    tenant_id: Tenant, name: str, parts: PartsDep, limit: Limit = 20, after: After = None
) -> JsonObject:
    """Return a page of what happened to a job."""
    events = job_events(await _found(parts, tenant_id, name, steps=True))
    return page_of(events, kind="event", after=after, limit=min(limit, MAX_ITEMS))


@_jobs.get("/{name}/checkpoints")
async def list_checkpoints(
    tenant_id: Tenant, name: str, parts: PartsDep, limit: Limit = 10, after: After = None
) -> JsonObject:
    """Return a page of a job's evaluated revisions."""
    items = checkpoints(await _found(parts, tenant_id, name, steps=True))
    return page_of(items, kind="checkpoint", after=after, limit=min(limit, MAX_ITEMS))


@_graders.post("/run")
async def run(tenant_id: Tenant, body: GraderRunBody, request: Request, parts: PartsDep) -> JsonObject:
    """Grade one answer."""
    async with cancelled_on_disconnect(request):
        return await try_grader(parts.trials, body, tenant_id, parts.clock)


@_graders.post("/validate")
async def validate(tenant_id: Tenant, body: ValidateBody, request: Request, parts: PartsDep) -> JsonObject:
    """Return a grader that can grade."""
    async with cancelled_on_disconnect(request):
        await checked_grader(parts.trials, body.grader, tenant_id)
    return {"grader": body.grader}


router = APIRouter()
include_routes(router, _jobs, _graders)
