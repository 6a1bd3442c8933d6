"""Routes about a tenant's jobs. A job of another tenant does not exist."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from mint_common.errors import NotFound
from mint_common.ids import JobId, TenantId
from services.rollout.core.job import Job
from services.rollout.core.progress import progress_of
from services.rollout.core.wave import Wave
from services.rollout.ports import Connection, JobStore

MAX_LISTED = 1000


def job_routes(jobs: JobStore[Connection], *, cancel: Callable[[JobId], Awaitable[None]]) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/jobs."""
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/jobs")

    @router.get("")
    async def list_jobs(
        tenant_id: str, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100
    ) -> list[dict[str, object]]:
        found = await jobs.jobs_of(TenantId(tenant_id), limit=limit)
        waves = await jobs.waves_by_job([job.job_id for job in found])
        return [_view(job, waves[job.job_id]) for job in found]

    @router.get("/{job_id}")
    async def show_job(tenant_id: str, job_id: str) -> dict[str, object]:
        job = await _own(jobs, tenant_id, job_id)
        return _view(job, await jobs.waves_of(job.job_id))

    @router.post("/{job_id}/cancel")
    async def cancel_job(tenant_id: str, job_id: str) -> dict[str, object]:
        job = await _own(jobs, tenant_id, job_id)
        await cancel(job.job_id)
        return await show_job(tenant_id, job_id)

    return router


async def _own(jobs: JobStore[Connection], tenant_id: str, job_id: str) -> Job:
    job = await jobs.job(JobId(job_id))
    if job.tenant_id != tenant_id:
        raise NotFound(kind="job", name=job_id)
    return job


def _view(job: Job, waves: Sequence[Wave]) -> dict[str, object]:
    progress = progress_of(waves, is_sampled=job.spec.algorithm != "sft")
    return {
        "job_id": job.job_id,
        "policy_id": job.policy_id,
        "base": job.base,
        "state": job.state.value,
        "reason": job.reason,
        "spec": msgspec.to_builtins(job.spec),
        "step": progress.step,
        "total_steps": job.spec.steps,
        "reward": progress.reward,
        "best": msgspec.to_builtins(progress.best),
        "created_at": job.created_at,
        "started_at": progress.started_at,
        "finished_at": job.finished_at,
        "steps": [_step(wave) for wave in waves],
    }


def _step(wave: Wave) -> dict[str, object]:
    """Return one step; the trainer's metrics stand beside our own fields, which win over equal names."""
    return {
        **wave.metrics,
        "step": wave.step,
        "wave_id": wave.wave_id,
        "state": wave.state.value,
        "sampled": wave.sampled,
        "sampled_number": wave.sampled_number,
        "reward_mean": wave.reward_mean,
        "revision": msgspec.to_builtins(wave.revision),
        "requested_at": wave.requested_at,
        "completed_at": wave.completed_at,
        "published_at": wave.published_at,
    }
