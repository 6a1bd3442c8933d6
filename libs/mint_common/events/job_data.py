"""A job on a tenant's own files: which rows it trains on, how they are rewarded, when it is evaluated."""

from dataclasses import dataclass
from typing import Any, Literal

from mint_common.claims import Claim
from mint_common.datasets.formats import Format

LearningRateSchedule = Literal["constant", "linear", "cosine"]
"""How the learning rate goes on after the warm-up: as it is, or down to 0 at the job's last step."""

EvaluationMetric = Literal["valid_loss", "valid_mean_token_accuracy", "valid_reward_mean"]
"""What a job's revisions are compared by; a loss is better when smaller, the others when larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A checked file as a job reads it: ``content`` claims its bytes, which have ``rows`` rows."""

    file_id: str
    filename: str
    content: Claim
    format: Format
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """End the job when ``patience`` evaluations in a row are not better than the best by ``min_delta``.

    The first ``warmup`` evaluations do not count.
    """

    patience: int
    min_delta: float
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """Evaluate after every ``every`` steps and after the last one, on at most ``rows`` rows.

    The rows are those of ``file``, or a ``holdout`` share of the training file, told apart by their hashes.
    ``keep`` says which revision the job ends with: the best by ``metric``, or the last.
    """

    every: int
    rows: int
    file: JobFile | None
    holdout: float
    metric: EvaluationMetric
    keep: Literal["best", "last"]
    early_stopping: EarlyStopping | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """The rows of a job instead of a task's.

    ``epochs`` is how often the rows are gone through, each time in the order of a shuffle seeded by the
    job's seed and the epoch; a row takes the place of one that is dropped with its whole step, and is drawn
    once more then. ``on_long`` says what becomes of a row that is longer than the base's context.
    ``grader`` is OpenAI's JSON of a grader, of a job with algorithm ``grpo`` only.
    """

    training: JobFile
    epochs: int
    on_long: Literal["refuse", "drop"]
    grader: dict[str, Any] | None  # JSON
    evaluation: EvaluationPlan | None
