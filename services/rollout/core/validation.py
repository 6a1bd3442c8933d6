"""Measure and compare a job's revisions: which is best, and when to stop early."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite

from mint_common.claims import RevisionRef
from mint_common.events import EarlyStopping, EvaluationMetric, EvaluationPlan, JobData, JobFile
from services.rollout.core.fault import FileParam, RowSource
from services.rollout.core.wave import Wave

SIGNS: Mapping[EvaluationMetric, float] = {
    "valid_loss": -1.0,
    "valid_mean_token_accuracy": 1.0,
    "valid_reward_mean": 1.0,
}
"""1 for a metric of which more is better, -1 for one of which less is."""
SCORES = frozenset({*SIGNS, "valid_reward_margin", "valid_reward_accuracy"})
"""The trainer's metrics that are recorded as scores of a revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFile:
    """The file that revisions are measured on: all of its rows, or a ``holdout`` share of them unless 0.

    ``param`` is the field that names it.
    """

    file: JobFile
    holdout: float
    param: FileParam

    @property
    def source(self) -> RowSource:
        """Return where its rows come from."""
        return RowSource(file=self.file.filename, param=self.param)


def measured_file(data: JobData, plan: EvaluationPlan) -> MeasuredFile:
    """Return the file that measures a job's revisions: for validation, or held out of the training file."""
    if plan.file is None:
        return MeasuredFile(file=data.training, holdout=plan.holdout, param="training_file")
    return MeasuredFile(file=plan.file, holdout=0.0, param="validation_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The value of the plan's metric at a revision, which ``step`` led to."""

    revision: RevisionRef
    step: int
    value: float


def is_evaluated(plan: EvaluationPlan | None, *, step: int, steps: int) -> bool:
    """Return whether the revision of a step is measured: after every ``every`` steps and the last one."""
    return plan is not None and (step % plan.every == 0 or step == steps)


def measured(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return a revision's finite scores on the validation rows, by metric."""
    return {name: value for name, value in metrics.items() if name in SCORES and isfinite(value)}


def scores_of(metric: EvaluationMetric, waves: Sequence[Wave]) -> list[Score]:
    """Return the scores of the waves' revisions, by step, without those that are not finite."""
    return [
        Score(revision=wave.revision, step=wave.step, value=wave.metrics[metric])
        for wave in waves
        if wave.revision is not None and isfinite(wave.metrics.get(metric, float("nan")))
    ]


def best_score(metric: EvaluationMetric, scores: Sequence[Score]) -> Score | None:
    """Return the best score, the earliest of equals; None without any."""
    return max(scores, key=lambda score: SIGNS[metric] * score.value, default=None)


def stops_early(stopping: EarlyStopping, metric: EvaluationMetric, scores: Sequence[Score]) -> bool:
    """Return whether ``patience`` scores in a row did not beat the best before them.

    A score beats another by more than ``min_delta``. The first ``warmup`` scores are ignored.
    """
    best, in_vain = -float("inf"), 0
    for value in _counted(stopping, metric, scores):
        is_better = value > best + stopping.min_delta
        best, in_vain = (value, 0) if is_better else (best, in_vain + 1)
        if in_vain >= stopping.patience:
            return True
    return False


def _counted(stopping: EarlyStopping, metric: EvaluationMetric, scores: Sequence[Score]) -> Iterator[float]:
    return (SIGNS[metric] * score.value for score in islice(scores, stopping.warmup, None))
