"""Two runs side by side: which rows are paired, and the interval of their mean difference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from services.rollout.core.comparison import SAME_LOSS, bootstrap_interval, check_comparable, compare
from services.rollout.core.evaluation import LOSS, REWARD, ScoredRow, weighted_mean
from tests.unit.rollout.test_evaluation import RUN, rows

SCORES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40)


def test_rows_are_paired_by_their_number() -> None:
    mine = [
        ScoredRow(row=n, score=s, answer=f"mine {n}") for n, s in ((5, 1.0), (2, 0.0), (9, 0.5), (7, None))
    ]
    theirs = [
        ScoredRow(row=n, score=s, answer=f"theirs {n}") for n, s in ((2, 1.0), (7, 1.0), (9, 0.5), (5, 0.25))
    ]
    found = compare(mine, theirs, metric=REWARD, seed=0, shown=2)
    assert (found.n, found.wins, found.losses, found.ties) == (3, 1, 1, 1)
    assert found.difference == pytest.approx((0.75 - 1.0 + 0.0) / 3)
    assert [(row.row, row.difference, row.answer, row.baseline_answer) for row in found.rows] == [
        (2, -1.0, "mine 2", "theirs 2"),
        (5, 0.75, "mine 5", "theirs 5"),
    ]


@pytest.mark.parametrize(
    ("mine", "theirs", "field"), [([], [1.0], "run"), ([1.0], [], "baseline"), ([1.0], [None], "baseline")]
)
def test_runs_without_a_row_in_common_are_not_compared(mine, theirs, field) -> None:
    with pytest.raises(InvalidField) as refused:
        compare(rows(mine).rows, rows(theirs).rows, metric=REWARD, seed=0, shown=9)
    assert refused.value.field == field


def test_a_single_row_has_no_interval() -> None:
    found = compare(rows([1.0]).rows, rows([0.0]).rows, metric=REWARD, seed=0, shown=9)
    assert (found.n, found.difference, found.interval) == (1, 1.0, None)


def test_losses_that_differ_by_rounding_are_the_same() -> None:
    mine, theirs = rows([1.0, 1.0, 1.0]).rows, rows([1.0 + SAME_LOSS / 2, 1.0 - SAME_LOSS / 2, 1.1]).rows
    found = compare(mine, theirs, metric=LOSS, seed=0, shown=9)
    assert (found.wins, found.losses, found.ties) == (1, 0, 2)
    found = compare(mine, theirs, metric=REWARD, seed=0, shown=9)
    assert (found.wins, found.losses, found.ties) == (1, 2, 0)


@settings(deadline=None, max_examples=50)
@given(SCORES, st.randoms(use_true_random=False), st.integers(0, 2**31 - 1))
def test_a_comparison_turned_round_has_the_signs_changed(scores, random, seed) -> None:
    others = [random.choice(scores) for _ in scores]
    one, other = rows(scores).rows, rows(others).rows
    ahead, behind = (
        compare(*sides, metric=REWARD, seed=seed, shown=99) for sides in ((one, other), (other, one))
    )
    assert ahead.difference == pytest.approx(-behind.difference)
    assert (ahead.wins, ahead.losses, ahead.ties) == (behind.losses, behind.wins, behind.ties)
    assert ahead.wins + ahead.losses + ahead.ties == ahead.n == len(scores)
    if ahead.interval is not None and behind.interval is not None:
        assert ahead.interval.low == pytest.approx(-behind.interval.high, abs=1e-9)
    assert [row.difference for row in ahead.rows] == [-row.difference for row in behind.rows]


@settings(deadline=None, max_examples=50)
@given(SCORES, st.floats(0.1, 10), st.floats(-1e3, 1e3), st.integers(0, 2**31 - 1))
def test_the_interval_is_of_the_values_and_follows_their_unit_and_origin(values, unit, origin, seed) -> None:
    given_values, ones = np.array(values), np.ones(len(values))
    found = bootstrap_interval(given_values, ones, seed=seed, resamples=500)
    assert found == bootstrap_interval(given_values, ones, seed=seed, resamples=500)
    # A mean of several equal numbers may differ from them in its last bit.
    tolerance = 1e-9 * max(1.0, np.abs(given_values).max())
    assert given_values.min() - tolerance <= found.low <= found.high <= given_values.max() + tolerance
    moved = bootstrap_interval(given_values * unit + origin, ones, seed=seed, resamples=500)
    assert moved.low == pytest.approx(found.low * unit + origin, abs=1e-6)
    assert moved.high == pytest.approx(found.high * unit + origin, abs=1e-6)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [
        bootstrap_interval(rng.normal(0.3, 1.0, 60), np.ones(60), seed=n, resamples=400) for n in range(300)
    ]
    covered = sum(each.low <= 0.3 <= each.high for each in found) / len(found)
    # Binomial: 0.95 of 300 has a standard error of 0.013; with 60 values the interval is slightly narrow.
    assert 0.90 <= covered <= 0.98


def test_of_a_loss_a_smaller_one_wins_and_rows_count_by_their_tokens() -> None:
    mine = [ScoredRow(row=n, score=s, answer="", weight=w) for n, s, w in ((1, 2.0, 1.0), (2, 1.0, 9.0))]
    theirs = [ScoredRow(row=n, score=s, answer="", weight=w) for n, s, w in ((1, 1.0, 1.0), (2, 2.0, 9.0))]
    found = compare(mine, theirs, metric=LOSS, seed=0, shown=9)
    assert (found.wins, found.losses, found.difference) == (1, 1, pytest.approx(-0.8))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (-1.0, 1.0)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=2, max_size=30), st.integers(2, 9)
)
def test_a_weighted_mean_is_that_of_its_tokens_and_does_not_ask_how_weights_are_counted(
    scores, times
) -> None:
    value, stderr = weighted_mean(scores)
    each = [score for score, weight in scores for _ in range(weight)]
    assert value == pytest.approx(np.mean(each), abs=1e-9)
    again = weighted_mean([(score, weight * times) for score, weight in scores])
    assert again == pytest.approx((value, stderr), abs=1e-9)


def test_the_interval_is_scipy_s() -> None:
    """Recorded: scipy 1.17.1's bootstrap, percentile, paired, 100,000 resamples."""
    values = np.array([number * 37 % 101 / 10 for number in range(60)])
    weights = np.array([1.0 + number * 7 % 13 for number in range(60)])
    for of, low, high, stderr in (
        (np.ones(60), 4.216666666666667, 5.686666666666667, 0.3752949085645185),
        (weights, 4.130668111697501, 5.7757230996721844, 0.42080020447484034),
    ):
        found = bootstrap_interval(values, of, seed=0)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * stderr)


def test_changed_questions_are_not_comparable() -> None:
    check_comparable(RUN, replace(RUN, run_id="evr_2", revision=None, policy_id=None))
    for change, name in (
        ({"task": "mode:rev"}, "task"),
        ({"seed": 2}, "seed"),
        ({"n": 5}, "n"),
        ({"temperature": 1.0}, "temperature"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
    ):
        with pytest.raises(InvalidField, match=f": {name} is not") as refused:
            check_comparable(RUN, replace(RUN, **change))
        assert refused.value.field == "baseline"
    with pytest.raises(InvalidField, match="another base"):
        check_comparable(replace(RUN, metric=LOSS), replace(RUN, metric=LOSS, base="other"))
