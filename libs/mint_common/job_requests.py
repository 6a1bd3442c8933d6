"""Requests about jobs on tasks, evaluation runs, tasks and graders, as the public API has them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from mint_common.algorithms import Algorithms, one_of, task_algorithms
from mint_common.catalog_requests import Body, Label, PolicyName
from mint_common.datasets import OnLong
from mint_common.events import EnvironmentKind, OptimizerStart
from mint_common.events.policy_gradient import AdvantageRule, KlPlace, PolicyLoss, TokenAggregation
from mint_common.examples import body_config
from mint_common.json_types import JsonObject
from mint_common.names import LATEST

TaskAlgorithm = Annotated[str, Field(json_schema_extra=one_of(task_algorithms(Algorithms())))]

_EXAMPLE: JsonObject = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongBody:
    """DAPO's treatment of long answers.

    A reward falls by up to ``factor`` over the last ``buffer`` tokens of ``max_new_tokens``; ``mask`` leaves
    answers that were cut off out of the loss.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    buffer: StrictInt = 0
    factor: StrictFloat = 1.0
    mask: StrictBool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientBody:
    """Changes of the algorithm's policy gradient; fields left out keep the algorithm's own.

    ``advantage`` is the rule of a group's advantages, ``loss`` the bound of the ratio of policy and sampler,
    with ``clip_low`` and ``clip_high``; another ``loss`` comes with its own bounds. ``aggregation`` is a
    step's mean, ``kl`` the place of the KL to the base. The samples of a step are trained on ``epochs``
    times, each time in ``minibatches`` optimizer steps.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    advantage: AdvantageRule | None = None
    loss: PolicyLoss | None = None
    aggregation: TokenAggregation | None = None
    clip_low: StrictFloat | None = None
    clip_high: StrictFloat | None = None
    kl: KlPlace | None = None
    overlong: OverlongBody | None = None
    epochs: StrictInt | None = None
    minibatches: StrictInt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyBody:
    """Drawing of tasks by their last rewards: equal ones of a whole group weigh ``least``, others 1."""

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    least: StrictFloat = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSamplingBody:
    """Sampling of further prompts in place of those whose answers all had the same reward (DAPO).

    A step samples at most ``max_extra`` x ``prompts_per_step`` further ones, then trains on what there is.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    max_extra: StrictInt = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentBody:
    """The environment that a job trains in, with its own ``args``.

    ``id`` is the name of an installed one. Kind ``session`` needs no installation: agents anywhere claim
    the episodes and receive ``args``; ``id`` is an optional label. An episode has at most
    ``max_turns`` model calls and ``episode_seconds``. A group with fewer than ``min_group`` rewards is not
    trained on; left out, that is three quarters of ``group_size``.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    kind: EnvironmentKind
    id: Label = ""
    args: dict[str, Any] = field(default_factory=dict)  # JSON
    split: Label = "train"
    max_turns: StrictInt = 8
    episode_seconds: float = 300.0
    min_group: StrictInt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEnvironmentBody:
    """The installed environment that revisions are scored in, one episode to each task of a ``split``.

    ``args`` are its own. An episode has at most ``max_turns`` model calls and ``episode_seconds``.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    kind: EnvironmentKind
    id: Label
    args: dict[str, Any] = field(default_factory=dict)  # JSON
    split: Label = "eval"
    max_turns: StrictInt = 8
    episode_seconds: float = 300.0


class EarlyStoppingBody(Body):
    """Early stopping after ``patience`` evaluations that do not improve the best by ``min_delta``."""

    patience: Annotated[StrictInt, Field(ge=1, le=1000)] = 2
    min_delta: Annotated[StrictFloat, Field(ge=0, le=1e6)] = 0.0
    warmup: Annotated[StrictInt, Field(ge=0, le=1000)] = 1


class EpisodeEvaluationBody(Body):
    """How revisions of a job in an environment are evaluated: ``samples`` episodes of ``n`` tasks of a split.

    Every ``every`` steps and after the last one. The job ends with the best revision, or with the last one.
    """

    every: StrictInt | None = None
    n: StrictInt | None = None
    samples: StrictInt = 1
    split: Label = "eval"
    keep: Literal["best", "last"] = "best"
    early_stopping: EarlyStoppingBody | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBody:
    """A claim of up to ``n`` episodes; it waits up to ``wait_seconds`` until one is free."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"n": 4, "wait_seconds": 20})

    n: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBody:
    """An agent's report of an episode: a ``reward``, or an ``error`` instead.

    ``scores`` are numbers of its own by name, ``stop`` is why the episode ended, and ``is_truncated`` says
    that it ended at a limit.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config({"reward": 1.0, "scores": {"format": 0.5}})

    reward: StrictFloat | StrictInt | None = None
    scores: Annotated[dict[Label, StrictFloat | StrictInt], Field(max_length=64)] = field(
        default_factory=dict
    )
    error: Annotated[str, Field(max_length=4000)] = ""
    stop: Annotated[str, Field(max_length=500)] = ""
    is_truncated: StrictBool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """The body of ``POST /mint/v1/jobs``; a hyper-parameter left out takes the task's recommended value.

    The job is on a ``task`` or in an environment, ``env``: exactly one of them. ``evaluation`` measures the
    revisions of the latter while it runs.
    ``beta`` is DPO's, which has no ``kl_coefficient`` beside it: how dear it is to move away from the base.
    ``optimizer``: ``reset`` drops the moments of earlier training. ``staleness`` is the number of steps that
    sampling may run ahead of training, 0 by default: at 2, the samples of a step come from a revision that
    is at most two steps old. ``gradient`` changes parts of a policy gradient. With ``dynamic_sampling``
    further prompts are sampled in place of those that teach nothing; with ``difficulty`` tasks of ``env``
    that taught nothing are drawn less often. A ``teacher`` is of algorithm ``opd``: a revision of the same
    base, or the base itself.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"policy": "counter", "task": "progression", "steps": 20, "group_size": 8}
    )

    policy: PolicyName
    task: str | None = None
    env: EnvironmentBody | None = None
    evaluation: EpisodeEvaluationBody | None = None
    algorithm: TaskAlgorithm = "grpo"
    steps: StrictInt | None = None
    prompts_per_step: StrictInt | None = None
    group_size: StrictInt | None = None
    max_new_tokens: StrictInt | None = None
    temperature: StrictFloat | None = None
    learning_rate: StrictFloat | None = None
    kl_coefficient: StrictFloat | None = None
    beta: StrictFloat | None = None
    clip_norm: StrictFloat | None = None
    seed: StrictInt | None = None
    optimizer: OptimizerStart = "keep"
    staleness: StrictInt = 0
    gradient: GradientBody | None = None
    dynamic_sampling: DynamicSamplingBody | None = None
    difficulty: DifficultyBody | None = None
    teacher: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What revisions are asked: ``n`` prompts of a ``task``, tasks of ``env``, or rows of a ``file``.

    Answers to rows of format reward are rewarded by a ``grader`` of OpenAI's; without one the loss of the
    answers is measured that rows of another format have. The same questions and ``seed`` are the same prompts
    for every revision. ``n`` is 64 prompts or tasks, or all rows of a file, ``max_new_tokens`` the task's own
    or 256, ``suite`` the task or ``file:<id>``, unless they are given; with a grader it is
    ``file:<id>:<hash>``, because scores of two graders do not compare, and so of two settings of an
    environment: ``env:<kind>:<id>:<hash>``. Each task of ``env`` has ``samples`` episodes, and their mean is
    its score. Temperature 0 is greedy. ``on_long`` says what becomes of a row that does not fit the context.
    """

    task: str | None = None
    env: EvaluatedEnvironmentBody | None = None
    file: Label | None = None
    grader: dict[str, Any] | None = None  # JSON
    suite: Label | None = None
    n: StrictInt | None = None
    samples: StrictInt = 1
    seed: StrictInt = 0
    temperature: StrictFloat = 0.0
    max_new_tokens: StrictInt | None = None
    on_long: OnLong = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRunBody(Questions):
    """What to score: a ``policy`` at a ``revision``, or a ``model``: a base, ``policy``, ``policy@revision``.

    ``revision`` is a number, a digest, an alias, ``latest`` or ``best``.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"policy": "counter", "revision": 2, "task": "progression", "n": 64}
    )

    policy: PolicyName | None = None
    revision: StrictInt | str = LATEST
    model: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareBody(Questions):
    """Two models that are asked the same: bases, ``policy`` or ``policy@revision``."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"model": "counter@3", "baseline": "counter@prod", "task": "progression", "n": 64}
    )

    model: Label
    baseline: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsBody:
    """Which prompts: the same split, number and seed give the same prompts."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"split": "heldout", "n": 4, "seed": 0})

    split: Literal["train", "heldout"] = "heldout"
    n: StrictInt = 64
    seed: StrictInt = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreItem:
    """A completion, and the ``entry`` of the prompt that it answers."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    entry: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBody:
    """What to score."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"items": [{"entry": "0", "text": "7 8 9"}]})

    items: tuple[ScoreItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderRunBody:
    """A grader, what a model answered, and the row that it answered."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"grader": _EXAMPLE, "model_sample": "4", "item": {"answer": "4"}}
    )

    grader: dict[str, Any]  # JSON
    model_sample: str
    item: dict[str, Any] = field(default_factory=dict)  # JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateBody:
    """A grader."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"grader": _EXAMPLE})

    grader: dict[str, Any]  # JSON
