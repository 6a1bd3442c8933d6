"""Routes about a tenant's jobs, on tasks and on files. A job of another tenant does not exist."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from mint_common.catalog_requests import TextCursor
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import NotFound
from mint_common.fine_tuning_requests import FineTuningBody, JobBody
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId
from mint_common.json_types import JsonObject
from mint_common.names import MAX_LIMIT
from mint_common.quotas import QuotaUse
from mint_common.runtime.edge_routes import BodyRoute
from mint_common.timeline import TimelineEntry, TimelineQuery, read_place
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.fine_tuning.names import JOB_PREFIX, job_id_of
from services.rollout.core.job import Job, JobState
from services.rollout.core.job_view import JobProgress, job_view
from services.rollout.core.progress import Progress
from services.rollout.handlers.job_admission import bases_not_started
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.http.context import CallerDep, Cause, PartsDep, Tenant

submissions = APIRouter(route_class=BodyRoute)
MAX_HELD = 10_000
"""Digests of a page."""
_GOES_ON = frozenset({JobState.SUBMITTED, JobState.RUNNING})


class RolloutQuery(BaseModel):
    """The group of a step, the newest by default, to show, and one of its episodes or all.

    ``token_texts``: with the text of each sampled token. ``wave`` is the id of the step's wave.
    """

    step: Annotated[int | None, Field(ge=1)] = None
    wave: TextCursor = None
    group: Annotated[int, Field(ge=0)] = 0
    episode: Annotated[int | None, Field(ge=0)] = None
    token_texts: bool = False


class JobsQuery(BaseModel):
    """A page of jobs in a state, of a policy; ``after`` is the last job of the page before."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    state: JobState | None = None
    policy: TextCursor = None
    after: TextCursor = None


@submissions.post("/internal/tenants/{tenant_id}/jobs", status_code=202)
async def submit_job(
    tenant_id: Tenant, body: Annotated[JobBody, Body()], caller: CallerDep, parts: PartsDep, cause: Cause
) -> JsonObject:
    """Make a job on a task or on a file."""
    if isinstance(body, FineTuningBody):
        job = await parts.on_files.make(caller, body, cause=cause)
    else:
        job = await parts.on_tasks.make(tenant_id, body, cause=cause)
    return job_view(JobProgress(job=job, progress=Progress()))


@submissions.get("/internal/tenants/{tenant_id}/jobs/{job_id}/rollouts")
async def show_rollouts(
    tenant_id: Tenant, job_id: str, asked: Annotated[RolloutQuery, Query()], parts: PartsDep
) -> JsonObject:
    """Return the stored episodes of a group of a step, or one of them."""
    job = await own_job(parts.jobs, tenant_id, job_id)
    return await parts.rollouts.show(job, **asked.model_dump())


@submissions.get("/internal/tenants/{tenant_id}/policies/{policy_id}/work")
async def show_work(tenant_id: Tenant, policy_id: str, parts: PartsDep) -> Sequence[str]:
    """Return unfinished jobs and evaluation runs of a policy."""
    return await parts.tenant_jobs.work_of(tenant_id, PolicyId(policy_id))


@submissions.get("/internal/held")
async def list_held(
    parts: PartsDep, after: str = "", limit: Annotated[int, Query(ge=1, le=MAX_HELD)] = MAX_HELD
) -> list[Digest]:
    """Return the revisions that open jobs learn from, which collection leaves, by digest."""
    return await parts.jobs.teachers(after=after, limit=limit)


@submissions.get("/internal/tenants/{tenant_id}/usage")
async def show_usage(tenant_id: Tenant, parts: PartsDep) -> Sequence[QuotaUse]:
    """Return what a tenant's jobs use, and may use."""
    return await parts.admission.uses(tenant_id)


@submissions.get("/internal/tenants/{tenant_id}/timeline")
async def list_tenant_timeline(
    tenant_id: Tenant, page: Annotated[TimelineQuery, Query()], parts: PartsDep
) -> Sequence[TimelineEntry]:
    """Return when a tenant's jobs were submitted and how they ended, newest first."""
    before = read_place(page.before)
    return await parts.tenant_jobs.timeline(tenant_id, None, limit=page.limit, before=before)


@submissions.get("/internal/tenants/{tenant_id}/policies/{policy_id}/timeline")
async def list_timeline(
    tenant_id: Tenant, policy_id: str, page: Annotated[TimelineQuery, Query()], parts: PartsDep
) -> Sequence[TimelineEntry]:
    """Return when a policy's jobs were submitted and how they ended, newest first."""
    return await parts.tenant_jobs.timeline(
        tenant_id, PolicyId(policy_id), limit=page.limit, before=read_place(page.before)
    )


def job_routes(handlers: JobHandlers, trainers: TrainerDirectory) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/jobs that read and steer jobs."""
    jobs, commits = handlers.commits.jobs, handlers.commits
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/jobs", route_class=BodyRoute)

    @router.get("")
    async def list_jobs(tenant_id: Tenant, page: Annotated[JobsQuery, Query()]) -> list[JsonObject]:
        after = None if page.after is None else await own_job(jobs, tenant_id, page.after)
        listed = await jobs.jobs_of(
            tenant_id, limit=page.limit, state=page.state, policy=page.policy, after=after
        )
        return [job_view(each) for each in await in_progress(jobs, listed, trainers)]

    @router.get("/{job_id}")
    async def show_job(
        tenant_id: Tenant,
        job_id: str,
        steps: bool = True,  # noqa: FBT001, FBT002  # a query
        after_step: Annotated[int, Query(ge=0)] = 0,
    ) -> JsonObject:
        own = await own_job(jobs, tenant_id, job_id)
        return job_view(await job_progress(jobs, own, trainers, steps=steps), after_step=after_step)

    @router.post("/{job_id}/cancel")
    async def cancel_job(tenant_id: Tenant, job_id: str) -> JsonObject:
        await commits.cancel((await own_job(jobs, tenant_id, job_id)).job_id)
        return await show_job(tenant_id, job_id, steps=False)

    @router.post("/{job_id}/pause")
    async def pause_job(tenant_id: Tenant, job_id: str) -> JsonObject:
        await commits.pause(await own_job(jobs, tenant_id, job_id))
        return await show_job(tenant_id, job_id, steps=False)

    @router.post("/{job_id}/resume")
    async def resume_job(tenant_id: Tenant, job_id: str) -> JsonObject:
        await handlers.resume(await own_job(jobs, tenant_id, job_id))
        return await show_job(tenant_id, job_id, steps=False)

    return router


async def in_progress(
    store: PostgresJobs, jobs: Sequence[Job], trainers: TrainerDirectory
) -> list[JobProgress]:
    """Return how far jobs are and what they wait for, in their order, without their waves."""
    progress = await store.progress_of(jobs)
    going = [job for job in jobs if job.state in _GOES_ON]
    reasons = await bases_not_started(trainers, {job.base for job in going})
    awaited = await store.awaited(going)
    return [
        JobProgress(
            job=job,
            progress=progress[job.job_id],
            waits_for=_waits_for(job, reasons, awaited) if job.state in _GOES_ON else "",
        )
        for job in jobs
    ]


def _waits_for(job: Job, bases: Mapping[BaseName, str], awaited: Mapping[JobId, str]) -> str:
    return bases.get(job.base, "") or awaited.get(job.job_id, "")


async def job_progress(
    store: PostgresJobs, job: Job, trainers: TrainerDirectory, *, steps: bool
) -> JobProgress:
    """Return the progress of a job, with its waves if steps are requested."""
    waves = await store.waves_of(job.job_id) if steps else ()
    (found,) = await in_progress(store, [job], trainers)
    return replace(found, waves=waves)


async def own_job(jobs: PostgresJobs, tenant_id: TenantId, name: str) -> Job:
    """Return the job that a name means, also with OpenAI's prefix. Raises NotFound."""
    job = await jobs.job(job_id_of(name) if name.startswith(JOB_PREFIX) else JobId(name))
    if job.tenant_id != tenant_id:
        raise NotFound(kind="job", name=job.job_id)
    return job
