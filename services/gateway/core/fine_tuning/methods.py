"""Methods of jobs on files: what each recommends, and what of OpenAI's API none of them has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mint_common.datasets import Method
from mint_common.errors import InvalidField
from mint_common.events import EvaluationMetric, LearningRateSchedule
from services.gateway.core.fine_tuning.bodies import FineTuningBody, MintFields
from services.gateway.core.fine_tuning.refusals import JobRefused

MethodName = Literal["supervised", "dpo", "kto", "reinforcement"]
Algorithm = Literal["sft", "dpo", "kto", "grpo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRecipe:
    """What a method is to the trainer, and what it recommends.

    ``learning_rate`` is that of a multiplier of 1. The first of ``metrics`` is what revisions are compared
    by unless the request names another.
    """

    algorithm: Algorithm
    rows: Method
    learning_rate: float
    schedule: LearningRateSchedule
    metrics: tuple[EvaluationMetric, ...]


_BY_LOSS: tuple[EvaluationMetric, ...] = ("valid_loss", "valid_mean_token_accuracy")
RECIPES: Mapping[MethodName, MethodRecipe] = {
    "supervised": MethodRecipe(
        algorithm="sft", rows="sft", learning_rate=2e-4, schedule="linear", metrics=_BY_LOSS
    ),
    "dpo": MethodRecipe(algorithm="dpo", rows="dpo", learning_rate=1e-5, schedule="linear", metrics=_BY_LOSS),
    "kto": MethodRecipe(algorithm="kto", rows="kto", learning_rate=1e-5, schedule="linear", metrics=_BY_LOSS),
    "reinforcement": MethodRecipe(
        algorithm="grpo",
        rows="rft",
        learning_rate=4e-5,
        schedule="constant",
        metrics=("valid_reward_mean",),
    ),
}
"""Rates that LoRA is usually trained at: ten times those of TRL's trainers of whole models, and
tinker-cookbook's for reinforcement.
"""


def method_of_job(body: FineTuningBody) -> MethodName:
    """Return the method. Raises InvalidField for settings of another one."""
    extras, method = body.mint or MintFields(), body.method
    if extras.method is not None:
        if method is not None:
            raise InvalidField(field="method", problem="is OpenAI's: mint.method kto stands alone")
        return extras.method
    if extras.beta is not None:
        problem = "is of mint.method kto; that of dpo is method.dpo.hyperparameters.beta"
        raise InvalidField(field="mint.beta", problem=problem)
    if method is None:
        return "supervised"
    for name in ("supervised", "dpo", "reinforcement"):
        if name != method.type and getattr(method, name) is not None:
            raise InvalidField(field=f"method.{name}", problem=f"is not of the type {method.type}")
    if method.type == "reinforcement" and method.reinforcement is None:
        raise InvalidField(field="method.reinforcement", problem="is missing: it has the grader")
    return method.type


def check_supported(body: FineTuningBody) -> None:
    """Refuse what OpenAI's API has and this one has not. Raises JobRefused."""
    if body.integrations:
        problem = "Integrations are not served: the metrics of a job are in its events and its result file."
        raise JobRefused(reason="integration_not_supported", field="integrations", problem=problem)
    settings = body.method.reinforcement if body.method else None
    if settings is None:
        return
    numbers = settings.hyperparameters
    if numbers is not None and numbers.reasoning_effort not in (None, "default"):  # it may be unhashable
        raise JobRefused(
            reason="reasoning_effort_not_supported",
            field="method.reinforcement.hyperparameters.reasoning_effort",
            problem="Only the reasoning_effort 'default' is served: a base thinks as its chat template says.",
        )
    if settings.response_format is not None:
        raise JobRefused(
            reason="response_format_not_supported",
            field="method.reinforcement.response_format",
            problem="Samples of a job are not guided by a response_format: let the grader read their form.",
        )
