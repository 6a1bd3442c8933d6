"""Points aliases at the results of jobs that were asked to promote them.

Invariants: an alias is moved after its job has succeeded, at most once for a job, by the registry's own move,
whatever is killed in between; why one is not moved is stored with the job.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.client.registry import RegistryClient
from mint_common.errors import MintError
from mint_common.events import Event, JobFinished
from mint_common.runtime.retries import Bury
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.core.fine_tuning.promotions import promoter_of, why_not_allowed, why_not_promoted
from services.rollout.core.fine_tuning.records import Promotion
from services.rollout.core.job import Job
from services.rollout.core.job_control import is_over
from services.rollout.core.job_view import JobProgress
from services.rollout.core.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotions:
    """Promotes the results of jobs."""

    registry: RegistryClient
    jobs: PostgresTenantJobs
    waves: PostgresJobs

    async def on_job_finished(self, event: JobFinished) -> Sequence[Event]:
        """Promote the result of a job, if requested."""
        job = await self.jobs.get(event.tenant_id, event.job_id)
        if job is not None:
            await self._promote(job)
        return ()

    async def on_given_up(self, event: JobFinished, decision: Bury) -> None:
        """Store why a promotion cannot be carried out."""
        await self.jobs.end_promotion(event.job_id, problem=decision.reason)

    async def sweep(self) -> None:
        """Promote what jobs ended with whose event was lost."""
        for job in await self.jobs.promoting():
            try:
                await self._promote(job)
            except MintError as error:
                extra = {"job_id": job.job_id, "problem": str(error)}
                _log.warning("result not promoted yet", extra=extra)

    async def _promote(self, job: Job) -> None:
        promotion = job.fine_tuning.promote if job.fine_tuning else None
        if promotion is None or promotion.state != "open" or not is_over(job):
            return
        waves = await self.waves.waves_of(job.job_id)
        found = JobProgress(job=job, progress=Progress(), waves=waves)
        problem = why_not_promoted(found, promotion) or await self._move(job, promotion)
        if problem:
            _log.warning("result not promoted", extra={"job_id": job.job_id, "problem": problem})
        await self.jobs.end_promotion(job.job_id, problem=problem)

    async def _move(self, job: Job, promotion: Promotion) -> str:
        """Move the alias; return why it could not be moved. Raises retryable errors."""
        assert job.result is not None, job.job_id
        try:
            key = await self.registry.get_key(job.tenant_id, promotion.key_id)
            if problem := why_not_allowed(promotion, key):
                return problem
            await self.registry.move_alias(
                promoter_of(job, promotion, key),
                job.policy_id,
                promotion.alias,
                revision=job.result.digest,
                reason=f"result of the job, asked for by {promotion.asked_by}",
                cause=f"promote:{job.job_id}",
                decided_at=job.finished_at,
            )
        except MintError as error:
            if error.retryable:
                raise
            return str(error)
        return ""
