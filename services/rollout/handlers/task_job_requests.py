"""A request for a job on a task, or in an environment, becomes a job.

Invariant: all that can be wrong with the request is found before anything is made.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.events import EnvironmentSpec, JobSpec, JobSubmitted, Teacher
from mint_common.ids import BaseName, JobId, TenantId, derive_id
from mint_common.job_requests import JobRequest
from mint_common.lora import check_served, check_trainable
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.environment import Environments
from services.rollout.core.environment_plan import environment_defaults
from services.rollout.core.job import Job
from services.rollout.core.job_plan import check_sampled, plan_job
from services.rollout.core.job_warnings import TaskLengths, job_warnings, task_change_warnings
from services.rollout.handlers.environment_checks import check_environment
from services.rollout.handlers.job_admission import JobAdmission, check_started
from services.rollout.handlers.lengths import token_lengths
from services.rollout.ports import Tasks

MEASURED_PROMPTS = 16
MEASURE_SECONDS = 3.0
"""Time that a submission may spend on its warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskJobMaker:
    """Makes jobs on tasks and in environments."""

    admission: JobAdmission
    tasks: Tasks
    environments: Environments
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
        recommended = await self._recommended(body)
        base = await admission.registry.get_base(policy.base)
        check_trainable(base, field="policy")
        check_served(base, field="policy")  # its engines read a task's texts as tokens
        await check_started(admission.trainers, base.name, field="policy")
        defaults = recommended or environment_defaults(max_context=base.max_context)
        spec = plan_job(body, admission.algorithms, defaults=defaults, max_context=base.max_context)
        if spec.environment is not None:
            await self._check_environment(spec.environment, tenant_id, has_difficulty=bool(spec.difficulty))
        if body.teacher is not None:
            spec = replace(spec, teacher=await self._teacher(tenant_id, body.teacher, policy.base))
        check_sampled(spec, await admission.limits(policy.base))
        warnings = job_warnings(spec, await self._lengths(spec, policy.base), max_context=base.max_context)
        if policy.latest is not None and spec.task:
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

    async def _recommended(self, body: JobRequest) -> Mapping[str, float] | None:
        """Return the recipe of a request's task; None for an environment. Raises InvalidField, NotFound."""
        if (body.task is None) == (body.env is None):
            raise InvalidField(field="task", problem="give exactly one of `task` and `env`")
        return None if body.task is None else asdict((await self.tasks.describe(body.task)).defaults)

    async def _teacher(self, tenant_id: TenantId, name: str, base: BaseName) -> Teacher:
        """Return the teacher of a name, at its revision of now. Raises InvalidField."""
        try:
            found = await self.admission.registry.resolve(tenant_id, name)
        except NotFound as error:
            raise InvalidField(field="teacher", problem=str(error)) from error
        if found.base != base:
            problem = f"{name} is of base {found.base}, and the policy of {base}"
            raise InvalidField(field="teacher", problem=problem)
        return Teacher(name=name, revision=found.revision)

    async def _check_environment(
        self, environment: EnvironmentSpec, tenant_id: TenantId, *, has_difficulty: bool
    ) -> None:
        """Check that an environment takes these arguments. Raises NotFound, InvalidField."""
        splits = [(environment.split, "env.split")]
        if environment.evaluation is not None:
            splits.append((environment.evaluation.split, "evaluation.split"))
        await check_environment(self.environments, environment, splits, tenant_id=tenant_id)
        if has_difficulty:
            found = await self.environments.describe(environment, environment.split, tenant_id=tenant_id)
            if found.tasks is None:
                problem = "has no effect: the environment's tasks are seeds, and none comes again"
                raise InvalidField(field="difficulty", problem=problem)

    async def _lengths(self, spec: JobSpec, base: BaseName) -> TaskLengths | None:
        """Return how long the job's first prompts are, or None when that is not known in time."""
        if not spec.task:
            return None
        n = min(spec.prompts_per_step, MEASURED_PROMPTS)
        with suppress(MintError, TimeoutError):
            async with asyncio.timeout(MEASURE_SECONDS):
                return await token_lengths(
                    self.tasks, self.sampler, spec.task, base=base, n=n, seed=spec.seed
                )
        return None
