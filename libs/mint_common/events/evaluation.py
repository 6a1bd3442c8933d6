"""Evaluations: a score of one revision."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.events.event import Event
from mint_common.ids import Digest, EvaluationId, PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecorded(Event):
    """Somebody scored a revision: ``value`` of ``metric`` in ``suite`` over ``n`` items."""

    type: ClassVar[str] = "evaluation.recorded"
    key: ClassVar[tuple[str, ...]] = ("evaluation_id",)

    evaluation_id: EvaluationId
    policy_id: PolicyId
    digest: Digest
    suite: str
    metric: str
    value: float
    n: int
    actor: str
