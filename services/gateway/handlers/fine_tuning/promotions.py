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
from mint_common.ids import TenantId
from mint_common.runtime.retries import Bury
from services.gateway.core.fine_tuning.promotions import promoter_of, why_not_allowed, why_not_promoted
from services.gateway.core.fine_tuning.records import Promotion, TunedJob
from services.gateway.core.mint.submission import SubmittedJob
from services.gateway.handlers.fine_tuning.jobs import FineTuningJobs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotions:
    """Promotes the results of jobs."""

    registry: RegistryClient
    jobs: FineTuningJobs

    async def on_job_finished(self, event: JobFinished) -> Sequence[Event]:
        """Promote what a job ended with, if that was asked for."""
        job = await self.jobs.submissions.get(event.tenant_id, event.job_id)
        if job is not None:
            await self._promote(event.tenant_id, job)
        return ()

    async def on_given_up(self, event: JobFinished, decision: Bury) -> None:
        """Tell of a promotion that cannot be carried out."""
        await self.jobs.submissions.end_promotion(event.job_id, problem=decision.reason)

    async def sweep(self) -> None:
        """Promote what jobs ended with whose event was lost."""
        for tenant_id, job in await self.jobs.submissions.promoting():
            try:
                await self._promote(tenant_id, job)
            except MintError as error:
                extra = {"job_id": job.job_id, "problem": str(error)}
                _log.warning("result not promoted yet", extra=extra)

    async def _promote(self, tenant_id: TenantId, job: SubmittedJob) -> None:
        promotion = job.fine_tuning.promote if job.fine_tuning else None
        if promotion is None or promotion.state != "open":
            return
        if not (await self.jobs.progress(tenant_id, job)).is_ended:
            return
        now = await self.jobs.progress(tenant_id, job, steps=True)
        problem = why_not_promoted(job, promotion, now) or await self._move(tenant_id, job, promotion, now)
        if problem:
            _log.warning("result not promoted", extra={"job_id": job.job_id, "problem": problem})
        await self.jobs.submissions.end_promotion(job.job_id, problem=problem)

    async def _move(self, tenant_id: TenantId, job: SubmittedJob, promotion: Promotion, now: TunedJob) -> str:
        """Move the alias; return why it could not be. Raises what may pass."""
        assert now.result is not None, job.job_id
        try:
            key = await self.registry.get_key(tenant_id, promotion.key_id)
            if problem := why_not_allowed(promotion, key):
                return problem
            await self.registry.move_alias(
                promoter_of(job, promotion, tenant_id, key),
                job.policy_id,
                promotion.alias,
                revision=now.result.digest,
                reason=f"result of the job, asked for by {promotion.asked_by}",
                cause=f"promote:{job.job_id}",
                decided_at=now.finished_at,
            )
        except MintError as error:
            if error.retryable:
                raise
            return str(error)
        return ""
