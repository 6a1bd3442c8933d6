"""Jobs on files, as their tenants read and steer them: the gateway's row with what rollout tells of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mint_common.errors import InvalidField, NotFound, Unavailable
from mint_common.ids import TenantId
from mint_common.json_types import JsonObject
from services.gateway.core.fine_tuning.answers import has_results, results_csv, results_file
from services.gateway.core.fine_tuning.file_uses import ReadingJob
from services.gateway.core.fine_tuning.names import job_id_of, job_of_results
from services.gateway.core.fine_tuning.records import TunedJob, Verb
from services.gateway.core.fine_tuning.refusals import job_ended
from services.gateway.core.mint.submission import SubmittedJob
from services.gateway.ports.jobs import Rollout, Submissions

ASKED_AT_ONCE = 4
"""Jobs that rollout is asked for at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningJobs:
    """A tenant's jobs on files. Those of others, and jobs on tasks, are not there."""

    submissions: Submissions
    rollout: Rollout

    async def get(self, tenant_id: TenantId, name: str) -> SubmittedJob:
        """Return a job by its id, with OpenAI's prefix or MinT's. Raises NotFound."""
        job = await self.submissions.get(tenant_id, job_id_of(name))
        if job is None or job.fine_tuning is None:
            raise NotFound(kind="job", name=name)
        return job

    async def progress(self, tenant_id: TenantId, job: SubmittedJob, *, steps: bool = False) -> TunedJob:
        """Return how far a job is, with its steps if they are asked for. Raises Unavailable."""
        try:
            return await self.rollout.progress(tenant_id, job.job_id, steps=steps)
        except NotFound:
            return TunedJob(state="submitted", total_steps=job.spec.steps)

    async def all_progress(
        self, tenant_id: TenantId, jobs: Sequence[SubmittedJob], *, steps: bool = False
    ) -> list[ReadingJob]:
        """Return how far jobs are, in their order. Raises Unavailable."""
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(job: SubmittedJob) -> ReadingJob:
            async with gate:
                return ReadingJob(job=job, now=await self.progress(tenant_id, job, steps=steps))

        return await asyncio.gather(*map(ask, jobs))

    async def page(
        self, tenant_id: TenantId, *, metadata: Mapping[str, str] | None, after: str | None, limit: int
    ) -> list[ReadingJob]:
        """Return the newest jobs below ``after``. Raises NotFound."""
        below = None if after is None else job_id_of(after)
        jobs = await self.submissions.on_files(tenant_id, metadata=metadata, after=below, limit=limit)
        return await self.all_progress(tenant_id, jobs)

    async def results(self, tenant_id: TenantId, file_id: str) -> tuple[JsonObject, bytes] | None:
        """Return a file with the results of a job, and its bytes; None for any other kind of file.

        Raises NotFound until the job has ended.
        """
        job_id = job_of_results(file_id)
        if job_id is None:
            return None
        try:
            job = await self.get(tenant_id, job_id)
        except NotFound as error:
            raise NotFound(kind="file", name=file_id) from error
        now = await self.progress(tenant_id, job, steps=True)
        if not has_results(now):
            raise NotFound(kind="file", name=file_id)
        data = results_csv(now)
        return results_file(job, now, size_bytes=len(data)), data

    async def steer(self, tenant_id: TenantId, name: str, verb: Verb) -> tuple[SubmittedJob, TunedJob]:
        """Cancel a job, let it rest or go on. Idempotent.

        Raises JobRefused for one that has ended, Unavailable for one that rollout has not taken yet.
        """
        job = await self.get(tenant_id, name)
        try:
            now = await self.rollout.steer(tenant_id, job.job_id, verb, TunedJob)
        except NotFound as error:
            if verb == "resume":  # it waits for its turn already
                return job, await self.progress(tenant_id, job)
            raise Unavailable(what="rollout", problem="it has not taken the job yet") from error
        except InvalidField:
            now = await self.progress(tenant_id, job)
            if not now.is_ended:
                raise
        if now.is_ended and (verb, now.state) != ("cancel", "cancelled"):
            raise job_ended(name, now.status, verb)
        return job, now
