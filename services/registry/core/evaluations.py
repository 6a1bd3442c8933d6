"""Evaluations: repeating what an evaluator said last records nothing twice; what it says anew, after another
score, is news.
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
    """Return the id of a score, a function of everything that was said."""
    parts = (policy_id, number, suite, metric, value.hex(), n, actor)
    # Scores of before there was one keep their ids.
    given = () if stderr is None else (stderr.hex(),)
    return EvaluationId(derive_id("eval", *parts, *given))


def said_anew(evaluation: EvaluationRecord, last: EvaluationRecord) -> EvaluationRecord | None:
    """Return the score to store where one of its id is known; ``last`` is its evaluator's last on the matter.

    None when that says the same: then it is that one.
    """
    if (evaluation.value, evaluation.n, evaluation.stderr) == (last.value, last.n, last.stderr):
        return None
    name = EvaluationId(derive_id("eval", evaluation.evaluation_id, last.evaluation_id))
    return replace(evaluation, evaluation_id=name)


def recorded(policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecorded:
    """Return the event that tells of a score."""
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
