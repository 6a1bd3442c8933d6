"""When a score moves an alias: every case of a rule, and what no rule ever does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.catalog import EvaluationRecord, RuleRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import InvalidField
from mint_common.ids import EvaluationId, sha256_digest
from services.registry.core.rules import Promote, RollBack, check_rule, plan_action

RULE = RuleRecord(
    rule_id="rule_1",
    alias="prod",
    suite="counting",
    metric="accuracy",
    at_least=0.8,
    max_drop=0.05,
    roll_back_below=0.6,
    actor="ci",
    created_at=0.0,
)


def revision(number: int) -> RevisionRef:
    claim = Claim(uri="m", sha256="0" * 64, size_bytes=1)
    return RevisionRef(digest=sha256_digest(str(number).encode()), number=number, manifest=claim)


def score(
    number: int, value: float, *, suite: str = "counting", metric: str = "accuracy"
) -> EvaluationRecord:
    return EvaluationRecord(
        evaluation_id=EvaluationId(f"eval_{number}"),
        digest=revision(number).digest,
        number=number,
        suite=suite,
        metric=metric,
        value=value,
        n=10,
        actor="hook",
        created_at=0.0,
    )


def verdict(
    given_score: EvaluationRecord, *, live: int | None = 3, live_value: float | None = None
) -> str | None:
    pointed = None if live is None else revision(live)
    action = plan_action(RULE, given_score, live=pointed, live_value=live_value)
    if action is not None:
        assert action.expected == ("" if pointed is None else pointed.digest)
        assert str(given_score.number) in action.reason
    return None if action is None else type(action).__name__


def test_newer_revision_is_promoted_from_the_threshold_on() -> None:
    assert verdict(score(4, 0.8)) == "Promote"
    assert verdict(score(4, 0.79)) is None
    assert verdict(score(1, 0.8), live=None) == "Promote"
    assert verdict(score(1, 0.7), live=None) is None


def test_newer_revision_may_be_a_little_worse_than_the_live_one_and_no_more() -> None:
    assert verdict(score(4, 0.90), live_value=0.94) == "Promote"
    assert verdict(score(4, 0.88), live_value=0.94) is None


def test_older_revision_is_never_promoted() -> None:
    assert verdict(score(2, 1.0)) is None


def test_live_revision_is_rolled_back_below_the_floor() -> None:
    assert verdict(score(3, 0.59)) == "RollBack"
    assert verdict(score(3, 0.6)) is None
    assert verdict(score(3, 1.0)) is None
    assert (
        plan_action(replace(RULE, roll_back_below=None), score(3, -9.0), live=revision(3), live_value=0)
        is None
    )


def test_score_of_another_suite_or_metric_says_nothing() -> None:
    assert verdict(score(4, 1.0, suite="other")) is None
    assert verdict(score(3, 0.0, metric="other")) is None


VALUES = st.floats(-2, 2)


@given(VALUES, VALUES, st.integers(1, 6), st.none() | st.integers(1, 6))
def test_score_that_was_acted_upon_asks_for_nothing_more(
    value: float, live_value: float, number: int, live: int | None
) -> None:
    pointed = None if live is None else revision(live)
    action = plan_action(RULE, score(number, value), live=pointed, live_value=live_value)
    if isinstance(action, Promote):
        assert plan_action(RULE, score(number, value), live=revision(number), live_value=value) is None
    if isinstance(action, RollBack) and number > 1:
        again = plan_action(RULE, score(number, value), live=revision(number - 1), live_value=live_value)
        assert again is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"at_least": float("nan")}, "at_least"),
        ({"roll_back_below": float("inf")}, "roll_back_below"),
        ({"roll_back_below": 0.81}, "roll_back_below"),
        ({"max_drop": -0.1}, "max_drop"),
    ],
)
def test_rule_that_makes_no_sense_is_refused(changes: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_rule(replace(RULE, **changes))  # type: ignore[arg-type]  # all changed fields are floats
    assert refused.value.field == field
