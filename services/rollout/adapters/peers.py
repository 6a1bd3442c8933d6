"""The registry and the trainers, as jobs use them."""

from collections.abc import Mapping

from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.datasets import Rendering, RenderRequest
from mint_common.ids import BaseName, PolicyId, TenantId
from services.rollout.core.erasure import EndedJob
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.job import Job
from services.rollout.core.job_scores import signer_of, suite_of


class RegistryRecords:
    """Asks for policies; records the score of a run in its caller's name, and of a job in the job's own."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def latest(self, tenant_id: TenantId, policy_id: PolicyId) -> RevisionRef | None:
        """Return a policy's newest published revision."""
        return (await self._registry.get_policy(tenant_id, policy_id)).latest

    async def record(self, run: EvaluationRun) -> None:
        """Record the score of a run of a policy's revision. Idempotent. Raises NotFound, Unavailable."""
        assert run.value is not None, run
        assert run.policy_id is not None, run
        assert run.revision is not None, run
        await self._registry.record_evaluation(
            run.caller,
            run.policy_id,
            revision=run.revision.digest,
            suite=run.suite,
            metric=run.metric,
            value=run.value,
            n=run.scored,
            stderr=run.stderr,
        )

    async def record_metrics(
        self, job: Job, revision: RevisionRef, metrics: Mapping[str, float], *, n: int
    ) -> None:
        """Record a job's scores of a revision over ``n`` rows, as suite ``job:<id>``. Idempotent."""
        for metric, value in metrics.items():
            await self._registry.record_evaluation(
                signer_of(job),
                job.policy_id,
                revision=revision.digest,
                suite=suite_of(job),
                metric=metric,
                value=value,
                n=n,
                stderr=None,
            )


class Trainers:
    """Asks the trainer of the base."""

    def __init__(self, trainers: TrainerDirectory) -> None:
        self._trainers = trainers

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Return each row's rendering. Raises InvalidField, Overloaded, Unavailable."""
        return await (await self._trainers.find(base)).render(request)

    async def release(self, job: EndedJob) -> frozenset[str]:
        """Return the keys of records that training of the job's policy may still read.

        No other record of the job becomes needed later. Raises Unavailable.
        """
        trainer = await self._trainers.find(job.base)
        return await trainer.release_records(job.policy_id, job.untold)
