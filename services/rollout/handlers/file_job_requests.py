"""A request for a job on a file becomes a job.

Invariant: all that can be wrong with the request is found before anything is made. A repeat of a request
that was cut off in the middle finds the policy that was made for it.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.authority import Caller
from mint_common.catalog import AliasRecord, PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AlreadyExists, MintError, NotFound
from mint_common.events import JobSubmitted, LoraSpec
from mint_common.fine_tuning_requests import FineTuningBody
from mint_common.ids import BaseName, JobId, TenantId, derive_id
from mint_common.lora import check_served, check_trainable
from mint_common.names import number_or_digest
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.core.files.records import FileRecord, IdPrefix, check_id
from services.rollout.core.fine_tuning.evaluations import validation_named
from services.rollout.core.fine_tuning.methods import checked_integrations
from services.rollout.core.fine_tuning.names import policy_names, seed_of, split_model
from services.rollout.core.fine_tuning.plan import (
    NOT_COMPARED,
    JobFiles,
    JobPlan,
    check_continues,
    leak_warnings,
    plan_fine_tuning,
    plan_shape,
)
from services.rollout.core.fine_tuning.promotions import check_alias, plan_promotion
from services.rollout.core.fine_tuning.records import FineTuning, Promotion
from services.rollout.core.fine_tuning.refusals import (
    file_not_found,
    grader_refused,
    model_not_found,
    not_newest,
)
from services.rollout.core.job import Job
from services.rollout.core.job_plan import check_sampled
from services.rollout.handlers.files import FileKeeper
from services.rollout.handlers.first_rows import FirstRows
from services.rollout.handlers.job_admission import JobAdmission, check_started

JOB_LABEL = "mint/job"
"""The label of a policy that was made for a job: the job's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJobMaker:
    """Makes jobs on files."""

    admission: JobAdmission
    keeper: FileKeeper
    graders: GraderRunner
    first_rows: FirstRows
    wandb_tenants: Collection[str]
    """Tenants whose jobs are recorded at W&B."""

    async def make(self, caller: Caller, body: FineTuningBody, *, cause: str) -> Job:
        """Return the job of a request; the same ``cause`` is the same job.

        Raises JobRefused or InvalidField, which name the field of the body, and AliasProtected.
        """
        tenant_id, job_id = caller.tenant_id, JobId(derive_id("job", cause))
        earlier = await self.admission.jobs.get(tenant_id, job_id)
        if earlier is not None:
            return earlier
        integrations = checked_integrations(body, is_recorded=tenant_id in self.wandb_tenants)
        await self.admission.check_quotas(tenant_id)
        bases = {base.name: base for base in await self.admission.registry.list_bases()}
        base, policy = await self._model(tenant_id, body.model, bases)
        check_trainable(base, field="model")
        await check_started(self.admission.trainers, base.name, field="model")
        files = await self._files(tenant_id, body)
        plan = await asyncio.to_thread(
            plan_fine_tuning,
            body,
            files,
            self.admission.algorithms,
            max_context=base.max_context,
            seed=seed_of(job_id),
        )
        if plan.spec.is_sampled:
            check_served(base, field="model")
            check_sampled(
                plan.spec,
                await self.admission.limits(base.name),
                group_field="method.reinforcement.hyperparameters.compute_multiplier",
                tokens_field="mint.max_new_tokens",
            )
        data = plan.spec.data
        promotion = plan_promotion(body, data.evaluation if data else None, caller)
        if policy is not None:
            check_continues(body, policy.lora, policy=policy.name)
            await self._check_alias(policy, promotion)
            shape = policy.lora
        else:
            shape = plan_shape(body, base, seed=plan.spec.seed)
        await self._check_grader(plan, tenant_id)
        await self.first_rows.check(files, plan, base)
        warnings = (*plan.warnings, *await self._leaks(files))
        if policy is None:
            names = policy_names(base.name, body.suffix, job_id, bases=bases)
            policy = await self._new_policy(tenant_id, base.name, shape, names=names, job_id=job_id)
        event = JobSubmitted(
            tenant_id=tenant_id,
            base=base.name,
            job_id=job_id,
            policy_id=policy.policy_id,
            lora=policy.lora,
            spec=plan.spec,
        )
        told = FineTuning(
            model=body.model,
            suffix=body.suffix,
            metadata=body.metadata,
            method=plan.algorithm.method,
            hyperparameters=plan.hyperparameters,
            lora=policy.lora,
            promote=promotion,
            integrations=integrations,
        )
        return await self.admission.jobs.submit(
            event, cause=cause, policy=policy.name, warnings=warnings, fine_tuning=told
        )

    async def _check_grader(self, plan: JobPlan, tenant_id: TenantId) -> None:
        """Refuse a grader whose source does not run, or whose model is not served. Raises InvalidField."""
        if plan.grader is None:
            return
        try:
            await self.graders.check(plan.grader, tenant_id=tenant_id)
        except MintError as error:
            raise grader_refused(error) from error

    async def _leaks(self, files: JobFiles) -> Sequence[str]:
        """Return warnings about rows that both files have. They refuse nothing."""
        training, validation = files.training, files.validation
        if validation is None or validation.sha256 == training.sha256:
            return ()
        try:
            return leak_warnings(await self.keeper.shared_rows(training, validation))
        except MintError:
            return (NOT_COMPARED,)

    async def _model(
        self, tenant_id: TenantId, model: str, bases: Mapping[BaseName, BaseFacts]
    ) -> tuple[BaseFacts, PolicyRecord | None]:
        """Return the model to train: a base for a new policy, or a policy with its base.

        Raises JobRefused.
        """
        name, version = split_model(model)
        if version is None and name in bases:
            return bases[BaseName(name)], None
        try:
            policy = await self.admission.registry.get_policy(tenant_id, name)
            if version is not None:
                found = await self._revision(policy, version)
                if policy.latest is None or found.digest != policy.latest.digest:
                    raise not_newest(model, policy)
        except NotFound as error:
            raise model_not_found(model, sorted(bases)) from error
        return bases[policy.base], policy

    async def _revision(self, policy: PolicyRecord, version: str) -> RevisionRef:
        """Return the revision that a number, digest or alias names. Raises NotFound."""
        key = number_or_digest(version)
        if key is not None:
            return (await self.admission.registry.get_revision(policy.tenant_id, policy.policy_id, key)).ref
        alias = await self._alias(policy, version)
        if alias is None:
            raise NotFound(kind="revision", name=version[:100])
        return alias.revision

    async def _check_alias(self, policy: PolicyRecord, promotion: Promotion | None) -> None:
        """Refuse an alias that the promotion may not move. Raises AliasProtected, InvalidField."""
        alias = None if promotion is None else await self._alias(policy, promotion.alias)
        if promotion is not None and alias is not None:
            check_alias(alias, promotion)

    async def _alias(self, policy: PolicyRecord, name: str) -> AliasRecord | None:
        """Return the alias of a policy that has this name, if there is one."""
        return await self.admission.registry.find_alias(policy.tenant_id, policy.policy_id, name)

    async def _files(self, tenant_id: TenantId, body: FineTuningBody) -> JobFiles:
        training = await self._file(tenant_id, body.training_file, "training_file")
        named = validation_named(body)
        if named is None:
            return JobFiles(training=training)
        validation = await self._file(tenant_id, *named)
        return JobFiles(training=training, validation=validation, validation_field=named[1])

    async def _file(self, tenant_id: TenantId, file_id: str, field: str) -> FileRecord:
        try:
            return await self.keeper.get(tenant_id, check_id(IdPrefix.FILE, file_id))
        except NotFound as error:
            raise file_not_found(field, file_id) from error

    async def _new_policy(
        self, tenant_id: TenantId, base: BaseName, shape: LoraSpec, *, names: Sequence[str], job_id: JobId
    ) -> PolicyRecord:
        """Return the policy that was made for a job, now or by an earlier try, with the first free name."""
        for name in names:
            made = await self._made(tenant_id, base, shape, name=name, job_id=job_id)
            if made is not None:
                return made
        raise AlreadyExists(kind="policy", name=names[-1])

    async def _made(
        self, tenant_id: TenantId, base: BaseName, shape: LoraSpec, *, name: str, job_id: JobId
    ) -> PolicyRecord | None:
        """Return a policy of a name that was made for the job; None when another one has the name."""
        try:
            return await self.admission.registry.create_policy(
                tenant_id, name=name, base=base, lora=shape, described={"labels": {JOB_LABEL: job_id}}
            )
        except AlreadyExists:
            found = await self.admission.registry.get_policy(tenant_id, name)
            return found if found.labels.get(JOB_LABEL) == job_id else None
