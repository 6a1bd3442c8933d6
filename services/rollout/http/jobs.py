"""Routes about a tenant's jobs. A job of another tenant does not exist."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from mint_common.claims import RevisionRef
from mint_common.errors import NotFound
from mint_common.ids import JobId, TenantId
from services.rollout.core.job import Job
from services.rollout.core.progress import Progress
from services.rollout.core.wave import Wave
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.ports import Connection, JobStore

MAX_LISTED = 1000


def job_routes(handlers: JobHandlers[Connection]) -> APIRouter:
    """Return the routes under /internal/tenants/{tenant}/jobs."""
    jobs, commits = handlers.commits.jobs, handlers.commits
    router = APIRouter(prefix="/internal/tenants/{tenant_id}/jobs")

    @router.get("")
    async def list_jobs(
        tenant_id: str, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100
    ) -> list[dict[str, object]]:
        found = await jobs.jobs_of(TenantId(tenant_id), limit=limit)
        progress = await jobs.progress_of(found)
        return [_view(job, progress[job.job_id], steps=()) for job in found]

    @router.get("/{job_id}")
    async def show_job(tenant_id: str, job_id: str, steps: bool = True) -> dict[str, object]:  # noqa: FBT001, FBT002  # a query
        job = await _own(jobs, tenant_id, job_id)
        waves = await jobs.waves_of(job.job_id) if steps else ()
        return _view(job, (await jobs.progress_of([job]))[job.job_id], steps=waves)

    @router.post("/{job_id}/cancel")
    async def cancel_job(tenant_id: str, job_id: str) -> dict[str, object]:
        job = await _own(jobs, tenant_id, job_id)
        await commits.cancel(job.job_id)
        return await show_job(tenant_id, job_id, steps=False)

    @router.post("/{job_id}/pause")
    async def pause_job(tenant_id: str, job_id: str) -> dict[str, object]:
        await commits.pause(await _own(jobs, tenant_id, job_id))
        return await show_job(tenant_id, job_id, steps=False)

    @router.post("/{job_id}/resume")
    async def resume_job(tenant_id: str, job_id: str) -> dict[str, object]:
        await handlers.resume(await _own(jobs, tenant_id, job_id))
        return await show_job(tenant_id, job_id, steps=False)

    return router


async def _own(jobs: JobStore[Connection], tenant_id: str, job_id: str) -> Job:
    job = await jobs.job(JobId(job_id))
    if job.tenant_id != tenant_id:
        raise NotFound(kind="job", name=job_id)
    return job


def _view(job: Job, progress: Progress, *, steps: Sequence[Wave]) -> dict[str, object]:
    return {
        "job_id": job.job_id,
        "policy_id": job.policy_id,
        "base": job.base,
        "state": job.state.value,
        "is_pausing": job.is_pausing,
        "reason": job.reason,
        "fault": msgspec.to_builtins(job.fault),
        "spec": msgspec.to_builtins(job.spec),
        "step": progress.step,
        "total_steps": job.spec.steps,
        "reward": progress.reward if _has_rewards(job) else None,
        "best": msgspec.to_builtins(progress.best),
        "result": _revision(job.result),
        "stopped_early": job.stopped_early,
        "trained_tokens": progress.trained_tokens,
        "created_at": job.created_at,
        "started_at": progress.started_at,
        "finished_at": job.finished_at,
        "steps": [_step(job, wave) for wave in steps],
    }


def _has_rewards(job: Job) -> bool:
    """Return whether its waves have rewards of a task or a grader."""
    return job.spec.data is None or job.spec.is_sampled


def _revision(found: RevisionRef | None) -> dict[str, object] | None:
    return None if found is None else {"digest": found.digest, "number": found.number}


def _step(job: Job, wave: Wave) -> dict[str, object]:
    """Return one step; the trainer's metrics stand beside our own fields, which win over equal names."""
    data = job.spec.data
    of_file: dict[str, object] = {}
    if data is not None:
        of_file = {
            "epoch": data.epochs * wave.step / job.spec.steps,
            "dropped_rows": wave.counts.dropped_rows,
        }
    return {
        **wave.metrics,
        "step": wave.step,
        "wave_id": wave.wave_id,
        "state": wave.state.value,
        "sampled": wave.sampled,
        "sampled_number": wave.sampled_number,
        "reward_mean": wave.reward_mean if _has_rewards(job) else None,
        "revision": msgspec.to_builtins(wave.revision),
        "requested_at": wave.requested_at,
        "completed_at": wave.completed_at,
        "published_at": wave.published_at,
        "scored_at": wave.scored_at,
        "grader_errors": wave.counts.grader_errors,
        **of_file,
    }
