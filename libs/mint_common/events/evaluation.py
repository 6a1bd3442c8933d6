"""Evaluations: a score of one revision."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.events.event import Event
from mint_common.ids import Digest, EvaluationId, PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecorded(Event):
    """A revision was scored: ``value`` of ``metric`` in ``suite`` over ``n`` items.

    ``stderr`` is the standard error of ``value``, None where the evaluator gave none.
    """

    type: ClassVar[str] = "evaluation.recorded"
    version: ClassVar[int] = 2
    key: ClassVar[tuple[str, ...]] = ("evaluation_id",)

    evaluation_id: EvaluationId
    policy_id: PolicyId
    digest: Digest
    suite: str
    metric: str
    value: float
    n: int
    stderr: float | None
    actor: str
