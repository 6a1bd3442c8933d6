"""Evaluations: a score that repeats its evaluator's last one is stored once; the same score after a different
one is stored again.
"""

from dataclasses import replace

from mint_common.catalog import EvaluationRecord, PolicyRecord
from mint_common.events import EvaluationRecorded
from mint_common.ids import EvaluationId, PolicyId, derive_id


def evaluation_id(
    policy_id: PolicyId,
    *,
    number: int,
    suite: str,
    metric: str,
    value: float,
    n: int,
    actor: str,
    stderr: float | None = None,
) -> EvaluationId:
    """Return the id of a score, derived from all of its content."""
    parts = (policy_id, number, suite, metric, value.hex(), n, actor)
    # Scores without a standard error keep the ids that they had before there was one.
    given = () if stderr is None else (stderr.hex(),)
    return EvaluationId(derive_id("eval", *parts, *given))


def repeated_score(evaluation: EvaluationRecord, last: EvaluationRecord) -> EvaluationRecord | None:
    """Return the score to store when its id is taken, under a new id; None when it repeats ``last``.

    ``last`` is the evaluator's last score of the same revision, suite and metric.
    """
    if (evaluation.value, evaluation.n, evaluation.stderr) == (last.value, last.n, last.stderr):
        return None
    name = EvaluationId(derive_id("eval", evaluation.evaluation_id, last.evaluation_id))
    return replace(evaluation, evaluation_id=name)


def recorded(policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecorded:
    """Return the event of a score."""
    return EvaluationRecorded(
        tenant_id=policy.tenant_id,
        base=policy.base,
        evaluation_id=evaluation.evaluation_id,
        policy_id=policy.policy_id,
        digest=evaluation.digest,
        suite=evaluation.suite,
        metric=evaluation.metric,
        value=evaluation.value,
        n=evaluation.n,
        stderr=evaluation.stderr,
        actor=evaluation.actor,
    )
