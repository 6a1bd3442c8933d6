"""The body of a request for a job on a file: OpenAI's fields, and MinT's own under ``mint``.

A number that is left out, null or "auto" is None: `services.rollout.core.fine_tuning.plan` chooses it.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictFloat,
    StrictInt,
    StringConstraints,
    Tag,
)
from pydantic.config import JsonDict

from mint_common.algorithms import Algorithms, OpenaiMethod, one_of, own_methods
from mint_common.catalog_requests import Body
from mint_common.datasets import MAX_BATCH, MAX_EPOCHS, OnLong
from mint_common.events import EvaluationMetric, LearningRateSchedule, OptimizerStart
from mint_common.job_requests import DynamicSamplingBody, EarlyStoppingBody, GradientBody, JobRequest

MAX_STEPS = 10_000
"""Maximum steps of a job, of ``warmup_steps`` and between two evaluations."""

EXAMPLE: JsonDict = {
    "model": "smollm2",
    "training_file": "file-2q3vnj5o6pmewm2ht6yq4x7k5a",
    "suffix": "support",
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    "mint": {"rank": 16, "evaluation": {"holdout": 0.1}},
}


def _auto(value: object) -> object:
    return None if value == "auto" else value


_NO_NUL = r"^[^\x00]*$"
"""Pattern of text that Postgres stores."""
_AUTO_INT = BeforeValidator(_auto, json_schema_input_type=int | Literal["auto"] | None)
_AUTO_FLOAT = BeforeValidator(_auto, json_schema_input_type=float | Literal["auto"] | None)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_NUL)]
Epochs = Annotated[Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)] | None, _AUTO_INT]
BatchSize = Annotated[Annotated[StrictInt, Field(ge=1, le=MAX_BATCH)] | None, _AUTO_INT]
Multiplier = Annotated[Annotated[StrictFloat, Field(gt=0, le=1e6)] | None, _AUTO_FLOAT]
OwnMethod = Annotated[str, Field(json_schema_extra=one_of(own_methods(Algorithms())))]
Beta = Annotated[Annotated[StrictFloat, Field(gt=0, le=2)] | None, _AUTO_FLOAT]
KlCoefficient = Annotated[StrictFloat, Field(ge=0, le=100)] | None
ComputeMultiplier = Annotated[Annotated[StrictFloat, Field(gt=1e-5, le=10)] | None, _AUTO_FLOAT]
EvalInterval = Annotated[Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)] | None, _AUTO_INT]
EvalSamples = Annotated[Annotated[StrictInt, Field(ge=1, le=1000)] | None, _AUTO_INT]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)],
        Annotated[str, StringConstraints(max_length=512, pattern=_NO_NUL)],
    ],
    Field(max_length=16),
]


class Hyperparameters(Body):
    """OpenAI's hyperparameters of every method."""

    n_epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate_multiplier: Multiplier = None


class DpoHyperparameters(Hyperparameters):
    """Those of dpo."""

    beta: Beta = None


class ReinforcementHyperparameters(Hyperparameters):
    """Those of reinforcement."""

    compute_multiplier: ComputeMultiplier = None
    eval_interval: EvalInterval = None
    eval_samples: EvalSamples = None
    reasoning_effort: Any = None  # refused unless it asks for nothing


class Supervised(Body):
    """Settings of the method supervised."""

    hyperparameters: Hyperparameters | None = None


class Dpo(Body):
    """Settings of the method dpo."""

    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(Body):
    """Settings of the method reinforcement."""

    grader: dict[str, Any]  # JSON
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: Any = None  # refused


class Method(Body):
    """A method, with its settings under the key of its name."""

    type: OpenaiMethod
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class JobEvaluationBody(Body):
    """How revisions are evaluated while the job runs: on ``file``, or on a ``holdout`` share of the rows.

    Every ``every`` steps, on ``rows`` rows at most. The job ends with the best revision by ``metric``, or
    with the last one.
    """

    file: Name | None = None
    holdout: Annotated[StrictFloat, Field(gt=0, le=0.5)] | None = None
    every: Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)] | None = None
    rows: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    metric: EvaluationMetric | None = None
    keep: Literal["best", "last"] = "best"
    early_stopping: EarlyStoppingBody | None = None


class PromotionBody(Body):
    """Point ``alias`` of the job's policy at its result once it has succeeded.

    With ``at_least``, or ``at_most`` for a loss, only if the result's score in the job's evaluation metric is
    so. A protected alias takes a key with ``admin``.
    """

    alias: Name
    at_least: StrictFloat | None = None
    at_most: StrictFloat | None = None


class MintFields(Body):
    """What OpenAI's API has no word for. ``rank``, ``alpha`` and ``targets`` are of a new policy.

    ``learning_rate`` takes the place of a multiplier. ``beta`` is KTO's. ``max_new_tokens`` bounds a
    sampled answer of reinforcement, ``staleness`` the steps that its sampling may run ahead of training;
    ``kl_coefficient`` weighs the KL to the base, ``gradient`` changes parts of its policy gradient,
    ``dynamic_sampling`` replaces rows whose answers all got the same reward by further ones.
    ``optimizer``: ``reset`` drops the moments of earlier training.
    """

    method: OwnMethod | None = None
    beta: Beta = None
    rank: StrictInt | None = None
    alpha: StrictFloat | None = None
    targets: tuple[Name, ...] | None = None
    learning_rate: StrictFloat | None = None
    schedule: LearningRateSchedule | None = None
    warmup_steps: Annotated[StrictInt, Field(ge=0, le=MAX_STEPS)] = 0
    optimizer: OptimizerStart = "keep"
    on_long: OnLong = "refuse"
    max_new_tokens: StrictInt | None = None
    staleness: StrictInt = 0
    kl_coefficient: KlCoefficient = None
    gradient: GradientBody | None = None
    dynamic_sampling: DynamicSamplingBody | None = None
    evaluation: JobEvaluationBody | None = None
    promote: PromotionBody | None = None


class WandbRun(Body):
    """Where a job's run is at W&B, and how it is called there."""

    project: Label
    name: Label | None = None
    entity: Label | None = None
    tags: Annotated[tuple[Label, ...], Field(max_length=64)] | None = None


class Integration(Body):
    """A tracker that gets the job's run; accepted where the operator records the tenant's jobs there."""

    type: Literal["wandb"]
    wandb: WandbRun


class FineTuningBody(Body):
    """A job on a file. ``model`` is a base, or a policy that is trained on from its newest revision."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra={"examples": [EXAMPLE]}
    )

    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Metadata | None = None
    integrations: Annotated[tuple[Integration, ...], Field(max_length=5)] | None = None
    mint: MintFields | None = None


JOB_KINDS = ("task", "file")


def _kind(body: object) -> str:
    is_on_file = isinstance(body, FineTuningBody) or (isinstance(body, dict) and "training_file" in body)
    return "file" if is_on_file else "task"


JobBody = Annotated[
    Annotated[JobRequest, Tag("task")] | Annotated[FineTuningBody, Tag("file")], Discriminator(_kind)
]
"""A body with ``training_file`` is that of `/v1/fine_tuning/jobs`."""
