"""A request for a job on a task becomes a job.

Invariant: all that can be wrong with the request is found before anything is made.
"""

import asyncio
from contextlib import suppress
from dataclasses import asdict, dataclass

from mint_common.errors import MintError
from mint_common.events import JobSpec, JobSubmitted
from mint_common.ids import BaseName, JobId, TenantId, derive_id
from mint_common.job_requests import JobRequest
from mint_common.lora import check_served, check_trainable
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.job import Job
from services.rollout.core.job_plan import check_sampled, plan_job
from services.rollout.core.job_warnings import TaskLengths, job_warnings, task_change_warnings
from services.rollout.handlers.job_admission import JobAdmission, check_started
from services.rollout.handlers.lengths import token_lengths
from services.rollout.ports import Tasks

MEASURED_PROMPTS = 16
MEASURE_SECONDS = 3.0
"""Time that a submission may spend on its warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskJobMaker:
    """Makes jobs on tasks."""

    admission: JobAdmission
    tasks: Tasks
    sampler: EngineSampler

    async def make(self, tenant_id: TenantId, body: JobRequest, *, cause: str) -> Job:
        """Return the job of a request; the same ``cause`` is the same job.

        Raises NotFound, QuotaExceeded, and InvalidField, which names the field of the body.
        """
        admission, job_id = self.admission, JobId(derive_id("job", cause))
        earlier = await admission.jobs.get(tenant_id, job_id)
        if earlier is not None:
            return earlier
        await admission.check_quotas(tenant_id)
        policy = await admission.registry.get_policy(tenant_id, body.policy)
        task = await self.tasks.describe(body.task)
        base = await admission.registry.get_base(policy.base)
        check_trainable(base, field="policy")
        check_served(base, field="policy")  # its engines read a task's texts as tokens
        await check_started(admission.trainers, base.name, field="policy")
        spec = plan_job(
            body, admission.algorithms, defaults=asdict(task.defaults), max_context=base.max_context
        )
        check_sampled(spec, await admission.limits(policy.base))
        warnings = job_warnings(spec, await self._lengths(spec, policy.base), max_context=base.max_context)
        if policy.latest is not None:
            before = await admission.jobs.last_task(tenant_id, policy.policy_id)
            warnings += task_change_warnings(spec, before, policy=policy.name, number=policy.latest.number)
        event = JobSubmitted(
            tenant_id=tenant_id,
            base=policy.base,
            job_id=job_id,
            policy_id=policy.policy_id,
            lora=policy.lora,
            spec=spec,
        )
        return await admission.jobs.submit(event, cause=cause, policy=policy.name, warnings=warnings)

    async def _lengths(self, spec: JobSpec, base: BaseName) -> TaskLengths | None:
        """Return how long the job's first prompts are, or None when that is not known in time."""
        n = min(spec.prompts_per_step, MEASURED_PROMPTS)
        with suppress(MintError, TimeoutError):
            async with asyncio.timeout(MEASURE_SECONDS):
                return await token_lengths(
                    self.tasks, self.sampler, spec.task, base=base, n=n, seed=spec.seed
                )
        return None
