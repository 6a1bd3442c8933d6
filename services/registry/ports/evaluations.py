"""Scores of revisions, and the promotion rules that follow them."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.catalog import EvaluationRecord, PolicyRecord, RuleRecord
from mint_common.ids import EvaluationId, PolicyId


class Evaluations(Protocol):
    """Scores of revisions."""

    async def add(self, policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Store a score of an existing revision and emit `evaluation.recorded`.

        A repeated score is handled as `core.evaluations.repeated_score` says.
        """
        ...

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations, oldest first. Raises NotFound for an unknown cursor."""
        ...

    async def get(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return an evaluation. Raises NotFound."""
        ...

    async def newest(self, policy_id: PolicyId, number: int, *, suite: str, metric: str) -> float | None:
        """Return the newest score of a revision."""
        ...

    async def scores(self, policy_id: PolicyId, number: int) -> Sequence[EvaluationRecord]:
        """Return the newest score of a revision in each suite and metric, by their names."""
        ...


class Rules(Protocol):
    """Promotion rules of policies."""

    async def add(self, policy_id: PolicyId, rule: RuleRecord) -> None:
        """Store a rule. Raises InvalidField when the policy has `core.rules.MOST_RULES`."""
        ...

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        ...

    async def remove(self, policy_id: PolicyId, rule_id: str) -> None:
        """Remove a rule. Raises NotFound."""
        ...
