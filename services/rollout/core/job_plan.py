"""The plan of a managed job: the user's settings over the task's defaults, completely checked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from mint_common.algorithms import Algorithm, Algorithms, task_algorithms
from mint_common.bounds import (
    check_between,
    check_not_negative,
    check_positive,
    check_sampled_tokens,
)
from mint_common.errors import InvalidField
from mint_common.events import DifficultySampling, DynamicSampling, EnvironmentSpec, JobSpec
from mint_common.generation import EngineLimits
from mint_common.job_requests import DifficultyBody, DynamicSamplingBody, EpisodeEvaluationBody, JobRequest
from mint_common.lora import MAX_SEED
from services.rollout.core.environment_plan import check_scored, plan_environment, plan_job_evaluation
from services.rollout.core.gradient_plan import plan_gradient

MAX_BETA = 100
MAX_STALENESS = 8
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 2.0
MIN_WEIGHT = 0.05
MAX_EXTRA = 10
"""Maximum rounds of further prompts of a step, verl's ``max_num_gen_batches``."""

MAX_LEARNING_RATE = 0.1
"""AdamW moves each weight by about the rate a step, and LoRA's weights are of the order of 0.01 to 1."""

Number = TypeVar("Number", int, float)


def plan_job(
    request: JobRequest, algorithms: Algorithms, *, defaults: Mapping[str, float], max_context: int
) -> JobSpec:
    """Return the complete job. Raises InvalidField naming the first hyper-parameter that is out of bounds."""
    algorithm = _task_algorithm(request.algorithm, algorithms)
    is_sampled = algorithm.samples_tasks
    recommended = defaults if is_sampled else {}
    spec = JobSpec(
        algorithm=request.algorithm,
        task=request.task or "",
        steps=_choose(request.steps, defaults, "steps", 30),
        prompts_per_step=_choose(request.prompts_per_step, defaults, "prompts_per_step", 8),
        group_size=_choose(request.group_size, recommended, "group_size", 8 if is_sampled else 1),
        max_new_tokens=_choose(request.max_new_tokens, defaults, "max_new_tokens", 16),
        temperature=_choose(request.temperature, {}, "temperature", 1.0),
        learning_rate=_choose(request.learning_rate, defaults, "learning_rate", 5e-4),
        kl_coefficient=_choose_pull(request, algorithm, recommended),
        clip_norm=_choose(request.clip_norm, defaults, "clip_norm", 1.0),
        seed=_choose(request.seed, defaults, "seed", 0),
        optimizer=request.optimizer,
        staleness=request.staleness,
    )
    _check_teacher(request, algorithm)
    check_staleness("staleness", spec.staleness, algorithm, is_sampled=is_sampled)
    dynamic = plan_dynamic(request.dynamic_sampling, is_sampled=is_sampled, field="dynamic_sampling")
    spec = replace(spec, dynamic_sampling=dynamic)
    if request.env is not None:
        spec = replace(spec, environment=plan_environment(request.env, algorithm, spec))
    _check_sampling(spec, is_sampled=is_sampled, max_context=max_context)
    _check_training(spec)
    if request.evaluation is not None:
        spec = replace(spec, environment=_evaluated(spec, request.evaluation))
    if request.difficulty is not None:
        spec = replace(spec, difficulty=_difficulty(spec, request.difficulty))
    return replace(spec, gradient=plan_gradient(request.gradient, algorithm, spec, field="gradient"))


def _evaluated(spec: JobSpec, body: EpisodeEvaluationBody) -> EnvironmentSpec:
    """Return the job's environment with how its revisions are measured there. Raises InvalidField."""
    if spec.environment is None:
        problem = "goes with `env`: score the revisions of a job on a task with an evaluation run"
        raise InvalidField(field="evaluation", problem=problem)
    check_scored(spec.environment)
    return replace(spec.environment, evaluation=plan_job_evaluation(body, steps=spec.steps))


def _check_teacher(request: JobRequest, algorithm: Algorithm) -> None:
    """Check that a teacher is named for ``opd`` alone, and nothing acts on rewards. Raises InvalidField."""
    if not algorithm.has_teacher:
        if request.teacher is not None:
            raise InvalidField(field="teacher", problem=f"is of algorithm opd, not of {algorithm.name}")
        return
    if request.teacher is None:
        problem = "is missing: POLICY@REVISION of the same base, or the base's name"
        raise InvalidField(field="teacher", problem=problem)
    if request.temperature not in (None, 1.0):
        problem = "must be 1.0: the teacher's probabilities are its own, without a temperature"
        raise InvalidField(field="temperature", problem=problem)
    for field in ("dynamic_sampling", "difficulty"):
        if getattr(request, field) is not None:
            raise InvalidField(field=field, problem="has no effect: opd learns nothing from rewards")


def _difficulty(spec: JobSpec, body: DifficultyBody) -> DifficultySampling:
    """Return how tasks are drawn by their last rewards. Raises InvalidField."""
    if spec.environment is None or spec.environment.is_session:
        problem = "goes with an installed `env`: its tasks come again; those of a task or of agents do not"
        raise InvalidField(field="difficulty", problem=problem)
    check_between("difficulty.least", body.least, MIN_WEIGHT, 1.0)
    return DifficultySampling(least=body.least)


def check_sampled(
    spec: JobSpec,
    limits: EngineLimits | None,
    *,
    group_field: str = "group_size",
    tokens_field: str = "max_new_tokens",
) -> None:
    """Check a job's samples against the engines' limits; None: none is known. Raises InvalidField."""
    if limits is None or not spec.is_sampled:
        return
    check_between(group_field, spec.group_size, 2, limits.max_completions)
    check_between(tokens_field, spec.max_new_tokens, 1, limits.max_context - 1)


def check_staleness(field: str, staleness: int, algorithm: Algorithm, *, is_sampled: bool) -> None:
    """Check how far a job's sampling may run ahead of training. Raises InvalidField."""
    check_between(field, staleness, 0, MAX_STALENESS)
    if staleness and not (is_sampled and algorithm.corrects_sampler):
        problem = f"is of algorithms that weigh samples by who sampled them, which {algorithm.name} is not"
        raise InvalidField(field=field, problem=problem)


def plan_dynamic(wish: DynamicSamplingBody | None, *, is_sampled: bool, field: str) -> DynamicSampling | None:
    """Return a job's dynamic sampling, None: it has none. Raises InvalidField."""
    if wish is None:
        return None
    if not is_sampled:
        raise InvalidField(field=field, problem="is of algorithms that sample several answers to a prompt")
    check_between(f"{field}.max_extra", wish.max_extra, 1, MAX_EXTRA)
    return DynamicSampling(max_extra=wish.max_extra)


def _task_algorithm(name: str, algorithms: Algorithms) -> Algorithm:
    found = task_algorithms(algorithms)
    if name not in found:
        raise InvalidField(field="algorithm", problem=f"must be one of {', '.join(found)}, got {name[:64]!r}")
    return algorithms.named(name)


def _choose_pull(request: JobRequest, algorithm: Algorithm, defaults: Mapping[str, float]) -> float:
    """Return the pull to the base; no task recommends a beta."""
    if algorithm.pull != "beta":
        if request.beta is not None:
            pulls = (
                "has no pull to the base" if algorithm.pull is None else "pulls to the base by kl_coefficient"
            )
            problem = f"is not of {algorithm.name}, which {pulls}"
            raise InvalidField(field="beta", problem=problem)
        if request.kl_coefficient and algorithm.pull is None:
            problem = f"must be 0 for {algorithm.name}, which has no pull to the base"
            raise InvalidField(field="kl_coefficient", problem=problem)
        return _choose(request.kl_coefficient, defaults, "kl_coefficient", algorithm.default_pull)
    if request.kl_coefficient is not None:
        raise InvalidField(field="kl_coefficient", problem=f"is not of {algorithm.name}: name beta")
    beta = _choose(request.beta, {}, "beta", algorithm.default_pull)
    check_positive("beta", beta, MAX_BETA)
    return beta


def _choose(wish: Number | None, defaults: Mapping[str, float], name: str, fallback: Number) -> Number:
    if wish is not None:
        return wish
    return type(fallback)(defaults.get(name, fallback))


def _check_sampling(spec: JobSpec, *, is_sampled: bool, max_context: int) -> None:
    check_between("prompts_per_step", spec.prompts_per_step, 1, 1024)
    if is_sampled:
        check_between("group_size", spec.group_size, 2, 256)
    elif spec.group_size != 1:
        raise InvalidField(
            field="group_size", problem=f"must be 1 for {spec.algorithm}, got {spec.group_size}"
        )
    if not 1 <= spec.max_new_tokens < max_context:
        problem = f"must be from 1 to {max_context - 1}, within the base's context, got {spec.max_new_tokens}"
        raise InvalidField(field="max_new_tokens", problem=problem)
    if is_sampled:
        check_sampled_tokens(
            ("prompts_per_step", spec.prompts_per_step),
            ("group_size", spec.group_size),
            ("max_new_tokens", spec.max_new_tokens),
        )
        check_between("temperature", spec.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE)
    elif spec.temperature != 1.0:
        problem = f"must be 1.0 for {spec.algorithm}, which samples nothing, got {spec.temperature!r}"
        raise InvalidField(field="temperature", problem=problem)


def _check_training(spec: JobSpec) -> None:
    check_between("steps", spec.steps, 1, 10_000)
    check_positive("learning_rate", spec.learning_rate, MAX_LEARNING_RATE)
    check_not_negative("kl_coefficient", spec.kl_coefficient)
    check_not_negative("clip_norm", spec.clip_norm)
    check_between("seed", spec.seed, 0, MAX_SEED)
