"""The numbers of a job on a file: hyperparameters over a method's recommendations. Pure."""

import math
from dataclasses import dataclass, field
from typing import cast

from mint_common.algorithms import Algorithm
from mint_common.bounds import check_between, check_positive, check_sampled_tokens
from mint_common.datasets import MAX_BATCH
from mint_common.errors import InvalidField
from mint_common.fine_tuning_requests import (
    MAX_STEPS,
    DpoHyperparameters,
    FineTuningBody,
    Hyperparameters,
    MintFields,
    ReinforcementHyperparameters,
)
from services.rollout.core.job_plan import MAX_LEARNING_RATE

EPOCHS, BATCH = 3, 8
"""Values of "auto" for files of usual size; the batch is larger when a job would have too many steps."""
MIN_DRAWN, MAX_DRAWN, MAX_AUTO_EPOCHS = 100, 25_000, 25
"""Rows that "auto" draws in all epochs, and its largest number of epochs: OpenAI's rule."""
GROUP, MAX_GROUP = 8, 256
"""Answers to a prompt at a compute multiplier of 1, and the most."""
NEW_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedNumbers:
    """Requested hyperparameters, with their place in the request."""

    where: str
    common: Hyperparameters
    dpo: DpoHyperparameters = field(default_factory=DpoHyperparameters)
    reinforcement: ReinforcementHyperparameters = field(default_factory=ReinforcementHyperparameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The numbers of a job, complete. ``rows`` are drawn once an epoch; ``pull`` is a beta or a KL's weight.

    ``compute_multiplier`` is None for methods that sample nothing.
    """

    epochs: int
    batch_size: int
    steps: int
    multiplier: float
    learning_rate: float
    pull: float
    compute_multiplier: float | None
    group_size: int
    max_new_tokens: int


def asked_for(body: FineTuningBody, algorithm: Algorithm) -> AskedNumbers:
    """Return the hyperparameters of a request. Raises InvalidField when they are in two places."""
    method = body.method.type if body.method else algorithm.method
    settings = getattr(body.method, method, None) if body.method else None
    own = None if settings is None else settings.hyperparameters
    if own is None:
        where = "hyperparameters" if body.hyperparameters else f"method.{method}.hyperparameters"
        return AskedNumbers(where=where, common=body.hyperparameters or Hyperparameters())
    if body.hyperparameters is not None:
        problem = f"is the older place of method.{method}.hyperparameters, which is there too"
        raise InvalidField(field="hyperparameters", problem=problem)
    where = f"method.{method}.hyperparameters"
    match own:
        case DpoHyperparameters():
            return AskedNumbers(where=where, common=own, dpo=own)
        case ReinforcementHyperparameters():
            return AskedNumbers(where=where, common=own, reinforcement=own)
    return AskedNumbers(where=where, common=cast(Hyperparameters, own))


def choose_numbers(
    asked: AskedNumbers, extras: MintFields, algorithm: Algorithm, *, rows: int, max_context: int
) -> Numbers:
    """Return the numbers of a job that draws ``rows`` an epoch. Raises InvalidField."""
    common, compute = asked.common, asked.reinforcement.compute_multiplier
    epochs = common.n_epochs or _auto_epochs(rows)
    fitting = math.ceil(rows * epochs / MAX_STEPS)
    batch = common.batch_size or min(MAX_BATCH, max(BATCH, fitting))
    steps = max(1, math.ceil(rows * epochs / batch))
    if steps > MAX_STEPS:
        name, way = "batch_size", "a larger batch or fewer epochs"
        if batch == MAX_BATCH:
            name, way = "n_epochs", "fewer epochs or rows"
        problem = f"gives {steps} steps with batches of {batch}, a job has {MAX_STEPS} at most: take {way}"
        raise InvalidField(field=f"{asked.where}.{name}", problem=problem)
    check_between("mint.warmup_steps", extras.warmup_steps, 0, steps)
    if algorithm.samples_rows:
        compute = compute or 1.0
    learning_rate = _learning_rate(asked, extras, algorithm)
    group_size = 1 if compute is None else min(MAX_GROUP, max(2, round(GROUP * compute)))
    max_new_tokens = _new_tokens(extras, algorithm, max_context)
    if compute is not None:
        check_sampled_tokens(
            (f"{asked.where}.batch_size", batch),
            ("a group size (compute_multiplier) of", group_size),
            ("mint.max_new_tokens", max_new_tokens),
        )
    return Numbers(
        epochs=epochs,
        batch_size=batch,
        steps=steps,
        multiplier=round(learning_rate / algorithm.learning_rate, 12),
        learning_rate=learning_rate,
        pull=_pull(asked, extras, algorithm),
        compute_multiplier=compute,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
    )


def _auto_epochs(rows: int) -> int:
    """Return more epochs for a small file, and fewer for a large one."""
    if rows * EPOCHS < MIN_DRAWN:
        return min(MAX_AUTO_EPOCHS, MIN_DRAWN // rows)
    return min(EPOCHS, max(1, MAX_DRAWN // rows))


def _learning_rate(asked: AskedNumbers, extras: MintFields, algorithm: Algorithm) -> float:
    if extras.learning_rate is None:
        rate = algorithm.learning_rate * (asked.common.learning_rate_multiplier or 1.0)
        if rate > MAX_LEARNING_RATE:
            problem = f"gives a learning rate of {rate:g}, it is {MAX_LEARNING_RATE} at most"
            raise InvalidField(field=f"{asked.where}.learning_rate_multiplier", problem=problem)
        return rate
    if asked.common.learning_rate_multiplier is not None:
        problem = "takes the place of learning_rate_multiplier, which is there too"
        raise InvalidField(field="mint.learning_rate", problem=problem)
    check_positive("mint.learning_rate", extras.learning_rate, MAX_LEARNING_RATE)
    return extras.learning_rate


def _pull(asked: AskedNumbers, extras: MintFields, algorithm: Algorithm) -> float:
    if asked.dpo.beta is not None and extras.beta is not None:
        raise InvalidField(field="mint.beta", problem=f"is {asked.where}.beta, which is there too")
    wish = asked.dpo.beta if extras.beta is None else extras.beta
    if extras.kl_coefficient is not None:
        if algorithm.gradient is None:
            problem = f"is not of {algorithm.method}, which has no policy gradient"
            raise InvalidField(field="mint.kl_coefficient", problem=problem)
        wish = extras.kl_coefficient
    return algorithm.default_pull if wish is None else wish


def _new_tokens(extras: MintFields, algorithm: Algorithm, max_context: int) -> int:
    """Return how many tokens a sampled answer may have; 1 where nothing is sampled."""
    wish = extras.max_new_tokens
    if not algorithm.samples_rows:
        if wish is not None:
            problem = f"is of reinforcement, not of {algorithm.method}"
            raise InvalidField(field="mint.max_new_tokens", problem=problem)
        return 1
    if wish is None:
        return min(NEW_TOKENS, max(1, max_context // 2))
    check_between("mint.max_new_tokens", wish, 1, max_context - 1)
    return wish
