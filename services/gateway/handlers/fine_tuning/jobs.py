"""Jobs on files, as their tenants read and steer them: the gateway's row with what rollout tells of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mint_common.errors import NotFound, Unavailable
from mint_common.ids import TenantId
from services.gateway.core.fine_tuning.names import job_id_of
from services.gateway.core.fine_tuning.records import JobNow, Verb
from services.gateway.core.fine_tuning.refusals import job_ended
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.submission import SubmittedJob
from services.gateway.ports.jobs import Rollout, Submissions

ASKED_AT_ONCE = 4
"""Jobs of a page that rollout is asked for at a time: an answer has all steps of a job."""

_REACHED: Mapping[Verb, frozenset[str]] = {
    "cancel": frozenset({"cancelled"}),
    "pause": frozenset({"paused"}),
    "resume": frozenset({"submitted", "running"}),
}
"""States in which there is nothing left to do."""


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

    async def progress(self, tenant_id: TenantId, job: SubmittedJob) -> JobNow:
        """Return how far a job is. Raises Unavailable."""
        try:
            return await self.rollout.progress(tenant_id, job.job_id)
        except NotFound:
            return JobNow(state="submitted", total_steps=job.spec.steps)

    async def page(
        self,
        tenant_id: TenantId,
        *,
        metadata: Mapping[str, str] | None,
        after: str | None,
        limit: int,
        show: Callable[[SubmittedJob, JobNow], JsonObject],
    ) -> list[JsonObject]:
        """Return the newest jobs below ``after`` as ``show`` shows them. Raises NotFound."""
        below = None if after is None else job_id_of(after)
        jobs = await self.submissions.on_files(tenant_id, metadata=metadata, after=below, limit=limit)
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def shown(job: SubmittedJob) -> JsonObject:
            async with gate:
                return show(job, await self.progress(tenant_id, job))

        return await asyncio.gather(*map(shown, jobs))

    async def steer(self, tenant_id: TenantId, name: str, verb: Verb) -> tuple[SubmittedJob, JobNow]:
        """Cancel a job, let it rest or go on. Idempotent.

        Raises JobRefused for one that has ended, Unavailable for one that rollout has not taken yet.
        """
        job = await self.get(tenant_id, name)
        now = await self.progress(tenant_id, job)
        if now.state in _REACHED[verb]:
            return job, now
        if now.is_ended:
            raise job_ended(name, now.state, verb)
        try:
            await self.rollout.steer(tenant_id, job.job_id, verb)
        except NotFound as error:
            raise Unavailable(what="rollout", problem="it has not taken the job yet") from error
        return job, await self.progress(tenant_id, job)
