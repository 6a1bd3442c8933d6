"""Which revision is best, and when a job stops early."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.events import EarlyStopping, EvaluationMetric, EvaluationPlan
from mint_common.ids import WaveId
from services.rollout.core.validation import (
    Score,
    best_score,
    is_evaluated,
    measured,
    scores_of,
    stops_early,
)
from tests.unit.rollout.world import history, revision_of

METRICS: tuple[EvaluationMetric, ...] = ("valid_loss", "valid_mean_token_accuracy", "valid_reward_mean")
values = st.lists(st.integers(-5, 5).map(float), max_size=20)


def scores(found: list[float]) -> list[Score]:
    return [
        Score(revision=revision_of(WaveId("w"), step), step=step, value=value)
        for step, value in enumerate(found, 1)
    ]


@given(found=values, metric=st.sampled_from(METRICS))
def test_the_best_is_the_first_of_the_least_losses_or_the_largest_others(
    found: list[float], metric: EvaluationMetric
) -> None:
    best = best_score(metric, scores(found))
    if not found:
        assert best is None
        return
    place = int(np.argmin(found) if metric == "valid_loss" else np.argmax(found))
    assert best == scores(found)[place]


@given(found=values, warmup=st.integers(0, 4), patience=st.integers(1, 5))
def test_a_job_stops_once_its_best_is_patience_evaluations_ago(
    found: list[float], warmup: int, patience: int
) -> None:
    stopping = EarlyStopping(patience=patience, min_delta=0.0, warmup=warmup)
    counted = found[warmup:]
    since = [last - int(np.argmin(counted[: last + 1])) for last in range(len(counted))]
    assert stops_early(stopping, "valid_loss", scores(found)) == (max(since, default=0) >= patience)
    flipped = scores([-value for value in found])
    assert stops_early(stopping, "valid_reward_mean", flipped) == (max(since, default=0) >= patience)


def test_a_gain_of_no_more_than_the_least_is_none() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.5, warmup=0)
    assert stops_early(stopping, "valid_loss", scores([3.0, 2.75, 2.5]))
    assert not stops_early(stopping, "valid_loss", scores([3.0, 2.75, 2.25]))


@given(every=st.integers(1, 9), steps=st.integers(1, 40))
def test_the_last_step_is_always_evaluated(every: int, steps: int) -> None:
    plan = EvaluationPlan(
        every=every, rows=1, file=None, holdout=0.1, metric="valid_loss", keep="best", early_stopping=None
    )
    found = [step for step in range(1, steps + 1) if is_evaluated(plan, step=step, steps=steps)]
    assert found == sorted({*range(every, steps + 1, every), steps})
    assert not is_evaluated(None, step=steps, steps=steps)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_no_score(value: float) -> None:
    first, second = history([0.0, 0.0])
    waves = [
        replace(first, metrics={"valid_loss": value, "loss": 1.0}),
        replace(second, metrics={"valid_loss": 2.0, "valid_seconds": 0.5}),
    ]
    assert [score.step for score in scores_of("valid_loss", waves)] == [2]
    assert measured(waves[0].metrics) == {}
    assert measured(waves[1].metrics) == {"valid_loss": 2.0}
