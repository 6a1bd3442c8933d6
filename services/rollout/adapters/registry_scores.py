"""The scores port on the registry."""

from mint_common.client.registry import RegistryClient
from services.rollout.core.evaluation import EvaluationRun


class RegistryScores:
    """Records the score of a run in the name of its caller."""

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
