"""Managed algorithms: what each one trains on, recommends and is compared by.

An algorithm is an entry here and a module of the trainer, which the entry names. A stack adds entries of its
own packages by import path. An entry is data without torch, so that every service and command can read it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, TypeVar

from mint_common.datasets.formats import Method
from mint_common.errors import MintError, SettingInvalid
from mint_common.events.job import EvaluationMetric, LearningRateSchedule
from mint_common.events.policy_gradient import BOUNDS, PolicyGradient, PolicyLoss

T = TypeVar("T")

SETTING = "MINT_ALGORITHMS_CUSTOM"
"""The setting that names the import paths of a stack's own algorithms."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PATH = re.compile(r"([\w.]+):(\w+)")


class AlgorithmUnknown(MintError):
    """Algorithm {name!r} is neither built in nor named in MINT_ALGORITHMS_CUSTOM of this service."""

    code = "algorithm_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A managed algorithm; a job names it by ``name``. Raises ValueError for inconsistent fields.

    ``training`` is the import path of its `TrainingAlgorithm` in the trainer, ``package.module:NAME``; with a
    ``gradient``, of its `GradientTraining`.
    ``rows`` are the rows of files that it trains on: those of ``rft`` are prompts whose answers are sampled
    and graded, all others have answers. ``task_answers`` are its training data in a job on a task: sampled
    answers or the task's reference answers; None: it accepts no task. ``corrects_sampler``: the loss weighs
    each sampled token by the policy's probability over the sampler's, so samples include the sampler's
    probabilities and routes.

    ``pull`` names the hyperparameter that pulls the policy to its base, None: nothing does; its default is
    ``default_pull``.
    ``learning_rate`` and ``schedule`` are recommended for files. ``metrics`` can compare the revisions of a
    job on a file; the first is the default.

    ``gradient`` are the defaults of a policy gradient, which a job may change. Unless ``fixes_loss``, its
    loss is the default of synchronous jobs only, see `services.rollout.core.gradient_plan`.
    """

    name: str
    training: str
    rows: Method
    learning_rate: float
    metrics: tuple[EvaluationMetric, ...]
    schedule: LearningRateSchedule = "linear"
    task_answers: Literal["sampled", "reference"] | None = None
    corrects_sampler: bool = False
    pull: Literal["kl_coefficient", "beta"] | None = "kl_coefficient"
    default_pull: float = 0.0
    gradient: PolicyGradient | None = None
    fixes_loss: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"an algorithm's name is like {_NAME.pattern}, found {self.name!r}")
        if not self.metrics or self.samples_rows != ("valid_reward_mean" in self.metrics):
            raise ValueError(f"{self.name}: rows of rft are compared by valid_reward_mean, others by a loss")
        if self.gradient is not None and not self.corrects_sampler:
            raise ValueError(f"{self.name}: a policy gradient reads the sampler's probabilities")

    @property
    def method(self) -> str:
        """Return its name in the fine-tuning API: OpenAI's where it is the algorithm of OpenAI's method."""
        return next((name for name, own in OPENAI_METHODS.items() if own == self.name), self.name)

    @property
    def samples_rows(self) -> bool:
        """Return whether a job on a file samples answers to its rows."""
        return self.rows == "rft"

    @property
    def has_teacher(self) -> bool:
        """Return whether it learns from a teacher, which a job names, instead of from rewards."""
        return self.gradient is not None and self.gradient.advantage == "teacher"

    @property
    def samples_tasks(self) -> bool:
        """Return whether a job on a task samples answers to its prompts."""
        return self.task_answers == "sampled"


_BY_LOSS: tuple[EvaluationMetric, ...] = ("valid_loss", "valid_mean_token_accuracy")


def _policy_gradient(name: str, gradient: PolicyGradient, *, fixes_loss: bool = True) -> Algorithm:
    return Algorithm(
        name=name,
        training="services.trainer.core.algorithms.policy_gradient:TRAINING",
        rows="rft",
        task_answers="sampled",
        corrects_sampler=True,
        learning_rate=4e-5,  # tinker-cookbook's
        schedule="constant",
        metrics=("valid_reward_mean",),
        gradient=gradient,
        fixes_loss=fixes_loss,
    )


def _bounded(loss: PolicyLoss, gradient: PolicyGradient) -> PolicyGradient:
    low, high = BOUNDS[loss]
    return replace(gradient, loss=loss, clip_low=low, clip_high=high)


_CENTRED = PolicyGradient(advantage="centre")
BUILT_IN = (
    _policy_gradient("grpo", PolicyGradient(), fixes_loss=False),
    _policy_gradient("dr-grpo", replace(_CENTRED, aggregation="constant"), fixes_loss=False),
    _policy_gradient("rloo", PolicyGradient(advantage="rloo"), fixes_loss=False),
    _policy_gradient("dapo", PolicyGradient(loss="clip", clip_low=0.8, clip_high=1.28)),
    _policy_gradient("gspo", _bounded("gspo", PolicyGradient(aggregation="sequence_mean"))),
    _policy_gradient("cispo", _bounded("cispo", PolicyGradient())),
    _policy_gradient("dppo", _bounded("dppo", _CENTRED)),
    _policy_gradient("opd", _bounded("dppo", PolicyGradient(advantage="teacher"))),
    Algorithm(
        name="sft",
        training="services.trainer.core.algorithms.sft:TRAINING",
        rows="sft",
        task_answers="reference",
        pull=None,
        learning_rate=2e-4,  # as those below: ten times that of TRL's trainer of whole models
        metrics=_BY_LOSS,
    ),
    Algorithm(
        name="dpo",
        training="services.trainer.core.algorithms.dpo:TRAINING",
        rows="dpo",
        task_answers="sampled",
        pull="beta",
        default_pull=0.1,  # Rafailov et al. 2023 (arXiv 2305.18290), and TRL
        learning_rate=1e-5,
        metrics=_BY_LOSS,
    ),
    Algorithm(
        name="kto",
        training="services.trainer.core.algorithms.kto:TRAINING",
        rows="kto",
        pull="beta",
        default_pull=0.1,
        learning_rate=1e-5,
        metrics=_BY_LOSS,
    ),
)
OpenaiMethod = Literal["supervised", "dpo", "reinforcement"]
OPENAI_METHODS: Mapping[OpenaiMethod, str] = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
"""The algorithm of each method of OpenAI's fine-tuning API."""


class Algorithms:
    """The algorithms of a stack by name: those built in, then its own."""

    def __init__(self, algorithms: Sequence[Algorithm] = BUILT_IN) -> None:
        self._by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def __iter__(self) -> Iterator[Algorithm]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Algorithm:
        """Return an algorithm. Raises AlgorithmUnknown."""
        if name not in self._by_name:
            raise AlgorithmUnknown(name=name)
        return self._by_name[name]


def task_algorithms(algorithms: Algorithms) -> list[str]:
    """Return the names that a job on a task may have."""
    return [one.name for one in algorithms if one.task_answers]


def own_methods(algorithms: Algorithms) -> list[str]:
    """Return the names of the methods of jobs on files that OpenAI's API does not have."""
    own = [one for one in algorithms if one.method == one.name and not one.has_teacher]
    return [one.name for one in own if one.name not in OPENAI_METHODS]


def one_of(names: Sequence[str]) -> dict[str, Any]:  # a JSON schema
    """Return the JSON schema of a text that is one of some names."""
    return {"const": names[0]} if len(names) == 1 else {"enum": list(names)}


def open_algorithms(custom: Sequence[str]) -> Algorithms:
    """Return the built-in algorithms and those at import paths. Raises SettingInvalid."""
    found = list(BUILT_IN)
    for path in custom:
        algorithm = import_object(path, Algorithm)
        if algorithm.name in {one.name for one in found}:
            raise SettingInvalid(name=SETTING, problem=f"{path}: there is another algorithm {algorithm.name}")
        found.append(algorithm)
    return Algorithms(found)


def import_object(path: str, kind: type[T]) -> T:
    """Return the object at an import path ``package.module:NAME``. Raises SettingInvalid."""
    parts = _PATH.fullmatch(path)
    if parts is None:
        raise SettingInvalid(name=SETTING, problem=f"{path!r} is not of the form package.module:NAME")
    try:
        found = getattr(import_module(parts[1]), parts[2])
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise SettingInvalid(name=SETTING, problem=f"cannot import {path!r}: {error}") from error
    if not isinstance(found, kind):
        problem = f"{path} must be of {kind.__module__}.{kind.__name__}, found {type(found).__name__}"
        raise SettingInvalid(name=SETTING, problem=problem)
    return found
