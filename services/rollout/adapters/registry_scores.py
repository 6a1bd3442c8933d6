"""The scores port on the registry."""

from collections.abc import Mapping

from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.job import Job
from services.rollout.core.job_scores import signer_of, suite_of


class RegistryScores:
    """Records the score of a run in the name of its caller, and those of a job in its own."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def record(self, run: EvaluationRun) -> None:
        """Record the score; the registry stores a repeated one once."""
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
        """Record each metric; the registry stores a repeated one once."""
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
