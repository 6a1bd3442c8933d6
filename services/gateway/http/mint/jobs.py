"""``/mint/v1/jobs``: managed training jobs, on tasks and on files.

Everything that can be wrong is found before anything is created; then the job's row and its ``job.submitted``
are committed together. From there rollout drives the job, and its state is asked of rollout.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Discriminator, Tag

from mint_common.authority import Caller
from mint_common.client.http import named
from mint_common.errors import MintError, NotFound, Unavailable
from mint_common.events import JobSpec, JobSubmitted
from mint_common.ids import JobId, TenantId, derive_id
from mint_common.json_types import JsonObject
from mint_common.lora import check_trainable
from mint_common.runtime.edge_routes import Handler
from services.gateway.adapters.engine_limits import known_limits
from services.gateway.core.fine_tuning.bodies import FineTuningBody
from services.gateway.core.fine_tuning.names import JOB_PREFIX, job_id_of
from services.gateway.core.fine_tuning.records import Verb
from services.gateway.core.mint.job_warnings import TaskLengths, job_warnings, task_change_warnings
from services.gateway.core.mint.jobs import JobRequest, check_sampled, plan_job
from services.gateway.core.mint.submission import complete_job, describe_submission, merge_jobs
from services.gateway.http.edge.context import Gateway, GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import CauseDep, RecordedRoute, creates

MEASURED_PROMPTS = 16
MEASURE_SECONDS = 3.0
"""How long a submission may take longer for its warnings."""

_KINDS = ("task", "file")


def _kind(body: object) -> str:
    is_on_file = isinstance(body, FineTuningBody) or (isinstance(body, dict) and "training_file" in body)
    return "file" if is_on_file else "task"


class JobsRoute(RecordedRoute):
    """A route of jobs: what is wrong with a body is named by its path, without the body's kind."""

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request."""
        try:
            return await super().serve(request, caller, carry_out)
        except RequestValidationError as error:
            raise RequestValidationError([_without_kind(each) for each in error.errors()]) from error


def _without_kind(problem: dict[str, Any]) -> dict[str, Any]:  # pydantic's own
    where, *path = problem["loc"]
    return {**problem, "loc": (where, *(path[1:] if path and path[0] in _KINDS else path))}


router = APIRouter(prefix="/mint/v1/jobs", tags=["jobs"], route_class=JobsRoute)

JobBody = Annotated[
    Annotated[JobRequest, Tag("task")] | Annotated[FineTuningBody, Tag("file")], Discriminator(_kind)
]
"""A body with ``training_file`` is that of `/v1/fine_tuning/jobs`."""


@router.post("", status_code=202, dependencies=[creates("job_id")])
async def submit_job(
    body: Annotated[JobBody, Body()], caller: TrainCaller, gateway: GatewayDep, cause: CauseDep
) -> JsonObject:
    """Submit a job on a task, or on a file: then with the body of `POST /v1/fine_tuning/jobs`.

    The same Idempotency-Key and body is the same job, however often it is sent.
    """
    if isinstance(body, FineTuningBody):
        return describe_submission(await gateway.fine_tuning.maker.make(caller, body, cause=cause))
    return await _submit_on_task(body, caller.tenant_id, gateway, cause=cause)


async def _submit_on_task(
    body: JobRequest, tenant_id: TenantId, gateway: Gateway, *, cause: str
) -> JsonObject:
    job_id = JobId(derive_id("job", cause))
    earlier = await gateway.submissions.get(tenant_id, job_id)
    if earlier is not None:
        return describe_submission(earlier)
    await gateway.rollout.check_job_quotas(tenant_id)
    policy = await gateway.registry.get_policy(tenant_id, body.policy)
    task = await gateway.rollout.task(body.task)
    base = await gateway.registry.get_base(policy.base)
    check_trainable(base, field="policy")
    algorithms = gateway.fine_tuning.maker.algorithms
    spec = plan_job(body, algorithms, defaults=task_defaults(task), max_context=base.max_context)
    check_sampled(spec, await known_limits(gateway.engines, policy.base))
    event = JobSubmitted(
        tenant_id=tenant_id,
        base=policy.base,
        job_id=job_id,
        policy_id=policy.policy_id,
        lora=policy.lora,
        spec=spec,
    )
    lengths = await _lengths(gateway, spec, base=policy.base)
    warnings = job_warnings(spec, lengths, max_context=base.max_context)
    if policy.latest is not None:
        earlier_task = await gateway.submissions.last_task(tenant_id, policy.policy_id)
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
    """List the tenant's newest jobs, newest first, without their steps and graders."""
    known = await gateway.rollout.jobs(caller.tenant_id, limit=limit)
    ids = [str(job["job_id"]) for job in known]
    submitted = await gateway.submissions.latest(caller.tenant_id, limit=limit, also=ids)
    return merge_jobs(submitted, known, limit=limit)


@router.get("/{job}")
async def get_job(job: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return a job with its steps; ``submitted`` until rollout has taken it."""
    job_id = _job_id(job)
    submission = await gateway.submissions.get(caller.tenant_id, job_id)
    try:
        return complete_job(await gateway.rollout.job(caller.tenant_id, job_id), submission)
    except NotFound:
        if submission is None:
            raise
        return describe_submission(submission)


@router.post("/{job}/cancel")
async def cancel_job(job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Stop a job after the work in hand; answer without its steps. One that has ended stays as it is."""
    return await _steer(gateway, caller.tenant_id, job, "cancel")


@router.post("/{job}/pause")
async def pause_job(job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Let a job rest after its open step; answer without its steps."""
    return await _steer(gateway, caller.tenant_id, job, "pause")


@router.post("/{job}/resume")
async def resume_job(job: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Let a paused job go on where it stopped; answer without its steps."""
    return await _steer(gateway, caller.tenant_id, job, "resume")


async def _steer(gateway: Gateway, tenant_id: TenantId, job: str, verb: Verb) -> JsonObject:
    job_id = _job_id(job)
    submission = await gateway.submissions.get(tenant_id, job_id)
    if submission is None:
        raise NotFound(kind="job", name=job)
    try:
        return complete_job(await gateway.rollout.steer(tenant_id, job_id, verb, JsonObject), submission)
    except NotFound as error:
        raise Unavailable(what="rollout", problem="it has not taken the job yet") from error


def _job_id(name: str) -> JobId:
    """Return the job that a name in a path means, also with OpenAI's prefix. Raises NotFound."""
    return job_id_of(name) if name.startswith(JOB_PREFIX) else JobId(named("job", name))


def task_defaults(task: JsonObject) -> dict[str, float]:
    """Return the numbers of a task's recommended recipe."""
    defaults = task.get("defaults")
    numbers = defaults.items() if isinstance(defaults, dict) else ()
    return {str(name): value for name, value in numbers if isinstance(value, int | float)}
