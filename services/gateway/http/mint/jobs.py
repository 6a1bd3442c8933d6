"""``/mint/v1/jobs``: managed training jobs.

Everything that can be wrong is found before anything is created; then the job's row and its ``job.submitted``
are committed together. From there rollout drives the job, and its state is asked of rollout.
"""

import asyncio
from contextlib import suppress

from fastapi import APIRouter

from mint_common.client.http import named
from mint_common.errors import MintError, NotFound, Unavailable
from mint_common.events import JobSpec, JobSubmitted
from mint_common.ids import JobId, derive_id, new_id
from mint_common.lora import check_trainable
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.job_warnings import TaskLengths, job_warnings, task_change_warnings
from services.gateway.core.mint.jobs import JobRequest, plan_job
from services.gateway.core.mint.submission import complete_job, describe_submission, merge_jobs
from services.gateway.http.edge.context import Gateway, GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import KeyedDep, RecordedRoute, creates

MEASURED_PROMPTS = 16
MEASURE_SECONDS = 3.0
"""How long a submission may take longer for its warnings."""

router = APIRouter(prefix="/mint/v1/jobs", tags=["jobs"], route_class=RecordedRoute)


@router.post("", status_code=202, dependencies=[creates("job_id")])
async def submit_job(
    body: JobRequest,
    caller: TrainCaller,
    gateway: GatewayDep,
    keyed: KeyedDep,
) -> JsonObject:
    """Submit a job. The same Idempotency-Key and body is the same job, however often it is sent."""
    cause = new_id("req") if keyed is None else keyed.request_id
    job_id = JobId(derive_id("job", cause))
    if keyed is not None:
        earlier = await gateway.submissions.get(caller.tenant_id, job_id)
        if earlier is not None:
            return describe_submission(earlier)
    policy = await gateway.registry.get_policy(caller.tenant_id, body.policy)
    task = await gateway.rollout.task(body.task)
    base = await gateway.registry.get_base(policy.base)
    check_trainable(base, field="policy")
    spec = plan_job(body, defaults=task_defaults(task), max_context=base.max_context)
    event = JobSubmitted(
        tenant_id=caller.tenant_id,
        base=policy.base,
        job_id=job_id,
        policy_id=policy.policy_id,
        lora=policy.lora,
        spec=spec,
    )
    lengths = await _lengths(gateway, spec, base=policy.base)
    warnings = job_warnings(spec, lengths, max_context=base.max_context)
    if policy.latest is not None:
        earlier_task = await gateway.submissions.last_task(caller.tenant_id, policy.policy_id)
        warnings += task_change_warnings(spec, earlier_task, policy=policy.name, number=policy.latest.number)
    submission = await gateway.submissions.submit(event, cause=cause, policy=policy.name, warnings=warnings)
    return describe_submission(submission)


async def _lengths(gateway: Gateway, spec: JobSpec, *, base: str) -> TaskLengths | None:
    """Return how long the job's first prompts are, or None when that is not known in time."""
    n = min(spec.prompts_per_step, MEASURED_PROMPTS)
    with suppress(MintError, TimeoutError):
        async with asyncio.timeout(MEASURE_SECONDS):
            return await gateway.rollout.lengths(spec.task, base=base, n=n, seed=spec.seed)
    return None


@router.get("")
async def list_jobs(caller: ReadCaller, gateway: GatewayDep, limit: LimitQuery = 100) -> list[JsonObject]:
    """List the tenant's newest jobs, newest first."""
    known = await gateway.rollout.jobs(caller.tenant_id, limit=limit)
    ids = [str(job["job_id"]) for job in known]
    submitted = await gateway.submissions.latest(caller.tenant_id, limit=limit, also=ids)
    return merge_jobs(submitted, known, limit=limit)


@router.get("/{job}")
async def get_job(job: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return a job with its steps; ``submitted`` until rollout has taken it."""
    submission = await gateway.submissions.get(caller.tenant_id, JobId(named("job", job)))
    try:
        return complete_job(await gateway.rollout.job(caller.tenant_id, job), submission)
    except NotFound:
        if submission is None:
            raise
        return describe_submission(submission)


@router.post("/{job}/cancel")
async def cancel_job(job: str, caller: TrainCaller, gateway: GatewayDep) -> object:
    """Stop a job after the work in hand."""
    submission = await gateway.submissions.get(caller.tenant_id, JobId(named("job", job)))
    try:
        return complete_job(await gateway.rollout.cancel(caller.tenant_id, job), submission)
    except NotFound as error:
        if submission is None:
            raise
        raise Unavailable(what="rollout", problem="it has not taken the job yet") from error


def task_defaults(task: JsonObject) -> dict[str, float]:
    """Return the numbers of a task's recommended recipe."""
    defaults = task.get("defaults")
    numbers = defaults.items() if isinstance(defaults, dict) else ()
    return {str(name): value for name, value in numbers if isinstance(value, int | float)}
