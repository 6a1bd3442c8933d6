"""A request for evaluation runs becomes runs: all that can be wrong with it is found before they are stored.

The registry gets a run's mean as an evaluation of the suite that is the task, the file or the environment,
signed by the key that asked. A bare base's score stays in its run.
"""

from dataclasses import asdict, dataclass

from mint_common.authority import Caller
from mint_common.catalog import PolicyRecord, Resolution
from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import BaseName, derive_id
from mint_common.job_requests import CompareBody, EvaluationRunBody, Questions
from mint_common.lora import check_served
from mint_common.names import BEST, LATEST, number_or_digest
from mint_common.near import near_names
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.core.environment import Environments
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.evaluation_plan import (
    RunPart,
    check_questions,
    plan_episodes,
    plan_file,
    plan_task,
)
from services.rollout.core.files.records import IdPrefix, check_id
from services.rollout.handlers.environment_checks import check_environment
from services.rollout.handlers.files import FileKeeper
from services.rollout.handlers.graders import checked_grader
from services.rollout.handlers.job_admission import JobAdmission
from services.rollout.ports import Tasks

TENANT_RUNS = 16
"""Evaluation runs that a tenant may have open; those of its jobs are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationMaker:
    """Begins evaluation runs. A repeated ``cause`` is the same run."""

    admission: JobAdmission
    runs: PostgresEvaluationRuns
    tasks: Tasks
    environments: Environments
    keeper: FileKeeper
    graders: GraderRunner
    trainers: TrainerDirectory

    async def run(self, caller: Caller, body: EvaluationRunBody, *, cause: str) -> EvaluationRun:
        """Begin the run of a revision. Raises NotFound, InvalidField, Overloaded."""
        check_questions(body)
        evaluated = await self._named(caller, body)
        asked = await self._questions(caller, body, evaluated.base)
        run = self._run(derive_id("evr", cause), caller, evaluated, asked)
        return (await self.runs.add([run], max_open=TENANT_RUNS))[0]

    async def compare(self, caller: Caller, body: CompareBody, *, cause: str) -> list[EvaluationRun]:
        """Begin the runs of a model and of its baseline, or none of both. Raises as `run`."""
        check_questions(body)
        models = {"run": body.model, "baseline": body.baseline}
        found = {
            side: await self.admission.registry.resolve(caller.tenant_id, name)
            for side, name in models.items()
        }
        asked = await self._questions(caller, body, *(each.base for each in found.values()))
        runs = [self._run(derive_id("evr", cause, side), caller, each, asked) for side, each in found.items()]
        return await self.runs.add(runs, max_open=TENANT_RUNS)

    def _run(self, run_id: str, caller: Caller, evaluated: Resolution, asked: RunPart) -> EvaluationRun:
        """Return a run; without a revision it is of the bare base."""
        return EvaluationRun(
            run_id=run_id,
            tenant_id=caller.tenant_id,
            base=evaluated.base,
            policy_id=evaluated.policy_id,
            policy=evaluated.policy_name or "",
            revision=evaluated.revision,
            caller=caller,
            created_at=self.admission.clock.now(),
            **asked,
        )

    async def _questions(self, caller: Caller, asked: Questions, *bases: BaseName) -> RunPart:
        """Return the prompts of a run for each of these bases. Raises NotFound, InvalidField."""
        facts = [await self.admission.registry.get_base(base) for base in bases]
        for each in facts:
            check_served(each, field="policy" if getattr(asked, "policy", None) else "model")
        max_context = min(each.max_context for each in facts)
        if asked.env is not None:
            part = plan_episodes(asked, asked.env, max_context=max_context)
            splits = [(asked.env.split, "env.split")]
            await check_environment(
                self.environments, part["environment"], splits, tenant_id=caller.tenant_id
            )
            return part
        if asked.file is None:
            task = await self.tasks.describe(str(asked.task))
            return plan_task(asked, asdict(task.defaults), max_context=max_context)
        file = await self.keeper.get(caller.tenant_id, check_id(IdPrefix.FILE, asked.file))
        plan = plan_file(asked, file, max_context=max_context)
        if asked.grader is not None:
            await checked_grader(self.graders, asked.grader, caller.tenant_id)
        for base in bases:
            await self.trainers.find(base)  # it renders the rows
        return plan

    async def _named(self, caller: Caller, body: EvaluationRunBody) -> Resolution:
        if (body.policy is None) == (body.model is None):
            raise InvalidField(field="policy", problem="give a policy or a model: one of both")
        if body.policy is None:
            if body.revision != LATEST:
                raise InvalidField(field="revision", problem="goes with policy: a model is policy@revision")
            return await self.admission.registry.resolve(caller.tenant_id, str(body.model))
        policy = await self.admission.registry.get_policy(caller.tenant_id, body.policy)
        revision = await _revision(self.admission.registry, policy, str(body.revision))
        return Resolution(
            base=policy.base, policy_id=policy.policy_id, policy_name=policy.name, revision=revision
        )


async def _revision(registry: RegistryClient, policy: PolicyRecord, name: str) -> RevisionRef:
    """Return the revision that a name means. Raises NotFound with near names, InvalidField for a bad one."""
    key = number_or_digest(name)
    if key is not None:
        found = await registry.get_revision(policy.tenant_id, policy.policy_id, key)
        if found.state == "quarantined":
            raise InvalidField(field="revision", problem=f"{name} is quarantined: restore it first")
        return found.ref
    if name == LATEST and policy.latest is not None:
        return policy.latest
    alias = await registry.find_alias(policy.tenant_id, policy.policy_id, name)
    if alias is not None:
        return alias.revision
    if name == BEST:
        return (await registry.get_revision(policy.tenant_id, policy.policy_id, BEST)).ref
    aliases = await registry.list_aliases(policy.tenant_id, policy.policy_id)
    names = [LATEST] * (policy.latest is not None) + [alias.alias for alias in aliases]
    near = ", ".join(near_names(name[:100], names) or names[:5])
    raise NotFound(kind="revision", name=name[:100], near=near)
