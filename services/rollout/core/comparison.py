"""Two runs over the same prompts, side by side: the difference of their scores, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mint_common.errors import InvalidField
from services.rollout.core.evaluation import LOSS, EvaluationRun, ScoredRow

RESAMPLES = 10_000
CONFIDENCE = 0.95
NO_ROWS = "has no rows any more: a tenant's newest runs keep theirs"
SAME_LOSS = 1e-5
"""Losses that differ by no more are the same: an engine's log-probabilities are rounded."""
_AT_ONCE = 1 << 21
"""Numbers of a block of resamples: 16 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A confidence interval of a mean."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """A row that both runs have a score of; ``weight`` is how much it counts in the mean difference."""

    row: int
    score: float
    baseline_score: float
    difference: float
    weight: float
    answer: str
    baseline_answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """A run against a baseline, over the ``n`` rows that both have a score of.

    ``difference`` is the mean of score minus baseline's score, ``interval`` its paired bootstrap interval,
    None of a single row. Wins are rows with a better score than the baseline's (of a loss a smaller one),
    losses with a worse one.
    ``rows`` has those that differ most, the largest difference first.
    """

    n: int
    difference: float
    interval: Interval | None
    wins: int
    losses: int
    ties: int
    rows: tuple[ComparedRow, ...]


def check_comparable(run: EvaluationRun, baseline: EvaluationRun) -> None:
    """Refuse two runs that were not asked the same. Raises InvalidField, which names what differs."""
    for name, mine, theirs in zip(_ASKED, _asked(run), _asked(baseline), strict=True):
        if mine != theirs:
            problem = f"{name} is not that of run {run.run_id}: both must be asked the same"
            raise InvalidField(field="baseline", problem=problem)
    if run.metric == LOSS and run.base != baseline.base:
        raise InvalidField(field="baseline", problem="is of another base: losses are by token, and so differ")


_ASKED = ("task", "env", "samples", "file", "grader", "metric", "n", "seed", "temperature", "max_new_tokens")


def _asked(run: EvaluationRun) -> tuple[object, ...]:
    data = run.data
    rows = None if data is None else (data.file.content.sha256, data.holdout)
    sampling = run.temperature, run.max_new_tokens
    asked = run.task, run.environment, run.samples, rows, data and data.grader
    return *asked, run.metric, run.n, run.seed, *sampling


def compare(
    rows: Sequence[ScoredRow], baseline: Sequence[ScoredRow], *, metric: str, seed: int, shown: int
) -> RunComparison:
    """Return the comparison of two succeeded runs' rows.

    Raises InvalidField when a run's rows are no longer retained, or no row has a score in both.
    """
    for field, kept in (("run", rows), ("baseline", baseline)):
        if not kept:
            raise InvalidField(field=field, problem=NO_ROWS)
    pairs = _pairs(rows, {row.row: row for row in baseline})
    if not pairs:
        raise InvalidField(field="baseline", problem="shares no scored row with the run")
    differences = np.array([pair.difference for pair in pairs])
    weights = np.array([pair.weight for pair in pairs])
    gains = -differences if metric == LOSS else differences
    least = SAME_LOSS if metric == LOSS else 0.0
    most = sorted(pairs, key=lambda pair: (-abs(pair.difference), pair.row))[:shown]
    return RunComparison(
        n=len(pairs),
        difference=float(np.average(differences, weights=weights)),
        interval=bootstrap_interval(differences, weights, seed=seed) if len(pairs) > 1 else None,
        wins=int((gains > least).sum()),
        losses=int((gains < -least).sum()),
        ties=int((abs(gains) <= least).sum()),
        rows=tuple(most),
    )


def _pairs(rows: Sequence[ScoredRow], baseline: Mapping[int, ScoredRow]) -> list[ComparedRow]:
    found = ((mine, baseline.get(mine.row)) for mine in rows)
    return [
        ComparedRow(
            row=mine.row,
            score=mine.score,
            baseline_score=theirs.score,
            difference=mine.score - theirs.score,
            weight=mine.weight,
            answer=mine.answer,
            baseline_answer=theirs.answer,
        )
        for mine, theirs in found
        if theirs is not None and mine.score is not None and theirs.score is not None
    ]


def bootstrap_interval(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap interval of the weighted mean of ``values`` [n], the same for a seed.

    Of the means of ``resamples`` draws of n values, with replacement and with their weights, it leaves the
    same share out at both ends. Of differences of paired scores it is the paired interval.
    """
    rng = np.random.default_rng(seed)
    count = len(values)
    block = max(1, _AT_ONCE // count)
    products = values * weights
    means = []
    for start in range(0, resamples, block):
        drawn = rng.integers(count, size=(min(block, resamples - start), count))
        means.append(products[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [outside, 1 - outside])
    return Interval(low=float(low), high=float(high), confidence=CONFIDENCE)
