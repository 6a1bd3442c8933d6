"""Scores of revisions, and the promotion rules that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.ids import EvaluationId, PolicyId, TenantId


class Evaluations(Protocol):
    """Scores of revisions, as handlers ask for them."""

    async def get(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return an evaluation. Raises NotFound."""
        ...

    async def newest(self, policy_id: PolicyId, number: int, *, suite: str, metric: str) -> float | None:
        """Return the newest score of a revision."""
        ...

    async def scores(self, policy_id: PolicyId, number: int) -> Sequence[EvaluationRecord]:
        """Return the newest score of a revision in each suite and metric, by their names."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRule:
    """A rule whose cooldown has ended, and the score that waited for it."""

    tenant_id: TenantId
    policy_id: PolicyId
    rule: RuleRecord
    evaluation_id: EvaluationId


class Rules(Protocol):
    """Promotion rules of policies, as they are followed."""

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        ...

    async def waiting(self, rule_id: str) -> EvaluationId | None:
        """Return the score that waits for the end of a rule's cooldown."""
        ...

    async def wait(self, rule_id: str, evaluation_id: EvaluationId, *, until: float) -> None:
        """Let a score wait for the end of a rule's cooldown, instead of an earlier one.

        No effect on a paused or removed rule.
        """
        ...

    async def due(self, *, now: float, limit: int) -> Sequence[DueRule]:
        """Return rules whose cooldown has ended, the earliest first."""
        ...

    async def done(self, rule_id: str, evaluation_id: EvaluationId) -> None:
        """Let a score wait no longer. No effect when another one waits by now."""
        ...
