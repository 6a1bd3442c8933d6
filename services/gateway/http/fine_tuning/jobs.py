"""``/v1/fine_tuning/jobs``: jobs on files, as OpenAI's API has them.

A request is checked whole before anything is made: what is wrong with it is a 400 that names the parameter.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from mint_common.ids import TenantId
from mint_common.json_types import JsonObject
from services.gateway.core.files.answers import page_answer
from services.gateway.core.fine_tuning.answers import checkpoints, job_answer
from services.gateway.core.fine_tuning.bodies import FineTuningBody
from services.gateway.core.fine_tuning.events import job_events
from services.gateway.core.fine_tuning.pages import metadata_wanted, page_of
from services.gateway.core.fine_tuning.records import TunedJob, Verb
from services.gateway.core.mint.submission import SubmittedJob
from services.gateway.http.edge.context import Gateway, GatewayDep, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import CauseDep, creates
from services.gateway.http.fine_tuning.routes import FineTuningRoute

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=FineTuningRoute)

MOST_JOBS, MOST_ITEMS = 100, 1000
"""Of a page, whatever is asked for: jobs, and events or checkpoints."""

Limit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]


@router.post("", dependencies=[creates("id")])
async def create_job(
    body: FineTuningBody, caller: TrainCaller, gateway: GatewayDep, cause: CauseDep
) -> JsonObject:
    """Train a policy on a file: `supervised`, `dpo`, `reinforcement`, or `mint: {"method": "kto"}`.

    `model` is a base, over which a new policy `<base>-<suffix>` is made, or a policy, which is trained on
    from its newest revision. The answer has the numbers that "auto" stands for. `mint` has what OpenAI's API
    has no word for. With `mint.promote` an alias is pointed at the result: 403 for a protected one unless the
    key has `admin`.
    """
    job = await gateway.fine_tuning.maker.make(caller, body, cause=cause)
    return _shown(gateway, caller.tenant_id, job, TunedJob(state="submitted", total_steps=job.spec.steps))


@router.get("")
async def list_jobs(
    request: Request, caller: ReadCaller, gateway: GatewayDep, limit: Limit = 20, after: After = None
) -> JsonObject:
    """List the tenant's jobs on files, newest first; ``after`` is the last id of the page before.

    `metadata[name]=value` selects, `metadata=null` selects jobs without any. A page has 100 jobs at most:
    `has_more` says whether there are others.
    """
    most = min(limit, MOST_JOBS)
    found = await gateway.fine_tuning.jobs.page(
        caller.tenant_id,
        metadata=metadata_wanted(request.query_params.multi_items()),
        after=after,
        limit=most + 1,
    )
    return page_answer(found, lambda each: _shown(gateway, caller.tenant_id, each.job, each.now), limit=most)


@router.get("/{fine_tuning_job}")
async def get_job(fine_tuning_job: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return a job. `fine_tuned_model` is the name of its chosen revision, which never means another one."""
    job = await gateway.fine_tuning.jobs.get(caller.tenant_id, fine_tuning_job)
    return _shown(
        gateway, caller.tenant_id, job, await gateway.fine_tuning.jobs.progress(caller.tenant_id, job)
    )


@router.post("/{fine_tuning_job}/cancel")
async def cancel_job(fine_tuning_job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Stop a job after the work in hand. Its revisions stay."""
    return await _steer(gateway, caller.tenant_id, fine_tuning_job, "cancel")


@router.post("/{fine_tuning_job}/pause")
async def pause_job(fine_tuning_job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Let a job rest after its open step. Each step is a revision that can be asked."""
    return await _steer(gateway, caller.tenant_id, fine_tuning_job, "pause")


@router.post("/{fine_tuning_job}/resume")
async def resume_job(fine_tuning_job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Let a paused job go on where it stopped, with its optimizer's state."""
    return await _steer(gateway, caller.tenant_id, fine_tuning_job, "resume")


@router.get("/{fine_tuning_job}/events")
async def list_events(
    fine_tuning_job: str, caller: ReadCaller, gateway: GatewayDep, limit: Limit = 20, after: After = None
) -> JsonObject:
    """List what happened to a job, newest first. An event's id stays the same."""
    job = await gateway.fine_tuning.jobs.get(caller.tenant_id, fine_tuning_job)
    events = job_events(job, await gateway.fine_tuning.jobs.progress(caller.tenant_id, job, steps=True))
    return page_of(events, kind="event", after=after, limit=min(limit, MOST_ITEMS))


@router.get("/{fine_tuning_job}/checkpoints")
async def list_checkpoints(
    fine_tuning_job: str, caller: ReadCaller, gateway: GatewayDep, limit: Limit = 10, after: After = None
) -> JsonObject:
    """List the revisions of a job that were evaluated, and its last one, newest first."""
    job = await gateway.fine_tuning.jobs.get(caller.tenant_id, fine_tuning_job)
    found = checkpoints(job, await gateway.fine_tuning.jobs.progress(caller.tenant_id, job, steps=True))
    return page_of(found, kind="checkpoint", after=after, limit=min(limit, MOST_ITEMS))


async def _steer(gateway: Gateway, tenant_id: TenantId, name: str, verb: Verb) -> JsonObject:
    job, now = await gateway.fine_tuning.jobs.steer(tenant_id, name, verb)
    return _shown(gateway, tenant_id, job, now)


def _shown(gateway: Gateway, tenant_id: TenantId, job: SubmittedJob, now: TunedJob) -> JsonObject:
    return job_answer(job, now, tenant_id=tenant_id, at=gateway.clock.now())
