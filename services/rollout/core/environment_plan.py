"""The plan of an environment to train or to score in: the user's settings, completely checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from mint_common.algorithms import Algorithm
from mint_common.bounds import check_between, check_positive, check_sampled_tokens
from mint_common.errors import InvalidField
from mint_common.events import EarlyStopping, EnvironmentSpec, EvaluationPlan, JobSpec
from mint_common.job_requests import EnvironmentBody, EpisodeEvaluationBody, EvaluatedEnvironmentBody

MAX_TURNS = 256
MAX_EPISODE_SECONDS = 3600.0
MAX_EPISODES = 4096
"""Maximum episodes of a step."""
MAX_ARGS_BYTES = 16 << 10
MAX_ARGS_DEPTH = 16
_NOT_SCORED = (
    "agents run episodes of training alone: ask the revision as any model, and post the score to"
    " /mint/v1/policies/{policy}/evaluations"
)
VIABLE_SHARE = 0.75
"""Share of a group that must have a reward, as tinker-cookbook's `MinViableGroup`."""
DEFAULT_TOKENS = 256
"""Tokens of an answer where a job says nothing; at most a quarter of the base's context."""


def environment_defaults(*, max_context: int) -> Mapping[str, float]:
    """Return the recipe of a job in an environment, which recommends none itself."""
    return {"max_new_tokens": max(1, min(DEFAULT_TOKENS, max_context // 4))}


EVALUATIONS = 10
"""About how often a job is evaluated unless its request says."""
EVALUATED_TASKS, MAX_EVALUATED_TASKS = 64, 1000
"""Tasks of an evaluation unless its request says, and at most."""
MAX_SAMPLES, MAX_EVALUATED_EPISODES = 64, 16_384
"""Maximum episodes of a task, and of all tasks of an evaluation."""


def plan_environment(body: EnvironmentBody, algorithm: Algorithm, spec: JobSpec) -> EnvironmentSpec:
    """Return the environment of a job with these other settings. Raises InvalidField naming the field."""
    if not (algorithm.samples_tasks and algorithm.corrects_sampler):
        problem = f"{algorithm.name} does not train on episodes, which several answers make"
        raise InvalidField(field="algorithm", problem=problem)
    _check_kind(body)
    found = _plan(body)
    min_group = math.ceil(VIABLE_SHARE * spec.group_size) if body.min_group is None else body.min_group
    check_between("env.min_group", min_group, 1, max(1, spec.group_size))
    episodes = spec.prompts_per_step * spec.group_size
    if episodes > MAX_EPISODES:
        problem = f"{episodes} episodes a step, the limit is {MAX_EPISODES}: lower it or group_size"
        raise InvalidField(field="prompts_per_step", problem=problem)
    check_sampled_tokens(
        ("prompts_per_step", spec.prompts_per_step),
        ("group_size", spec.group_size),
        ("max_new_tokens x env.max_turns", spec.max_new_tokens * body.max_turns),
    )
    return replace(found, min_group=min_group)


def plan_job_evaluation(body: EpisodeEvaluationBody, *, steps: int) -> EvaluationPlan:
    """Return how the revisions of a job in an environment are measured. Raises InvalidField."""
    every = max(1, round(steps / EVALUATIONS)) if body.every is None else body.every
    n = EVALUATED_TASKS if body.n is None else body.n
    check_between("evaluation.every", every, 1, steps)
    check_between("evaluation.n", n, 1, MAX_EVALUATED_TASKS)
    check_samples("evaluation.samples", body.samples, n=n)
    stopping = body.early_stopping
    return EvaluationPlan(
        every=every,
        rows=n,
        file=None,
        holdout=0.0,
        metric="valid_reward_mean",
        keep=body.keep,
        early_stopping=None
        if stopping is None
        else EarlyStopping(patience=stopping.patience, min_delta=stopping.min_delta, warmup=stopping.warmup),
        split=body.split,
        samples=body.samples,
    )


def check_samples(field: str, samples: int, *, n: int) -> None:
    """Check the episodes of each of ``n`` tasks. Raises InvalidField."""
    check_between(field, samples, 1, MAX_SAMPLES)
    if n * samples > MAX_EVALUATED_EPISODES:
        problem = f"makes {n * samples} episodes, the limit is {MAX_EVALUATED_EPISODES}: lower it or n"
        raise InvalidField(field=field, problem=problem)


def plan_scored_environment(body: EvaluatedEnvironmentBody) -> EnvironmentSpec:
    """Return the environment of an evaluation run. Raises InvalidField naming the field."""
    if body.kind == "session":
        raise InvalidField(field="env.kind", problem=_NOT_SCORED)
    return _plan(body)


def evaluated_in(environment: EnvironmentSpec, plan: EvaluationPlan) -> EnvironmentSpec:
    """Return the environment that measures the revisions of a job, given the job's own."""
    return replace(environment, split=plan.split, min_group=1, evaluation=None)


def suite_of_environment(environment: EnvironmentSpec) -> str:
    """Return the suite of an environment's scores, the same for equal settings."""
    asked = [environment.args, environment.split, environment.max_turns]
    content = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    return f"env:{environment.kind}:{environment.id}:{sha256(content).hexdigest()[:8]}"


def _plan(body: EnvironmentBody | EvaluatedEnvironmentBody) -> EnvironmentSpec:
    """Return an environment; one score of a group is enough."""
    check_between("env.max_turns", body.max_turns, 1, MAX_TURNS)
    check_positive("env.episode_seconds", body.episode_seconds, MAX_EPISODE_SECONDS)
    return EnvironmentSpec(
        kind=body.kind,
        id=body.id or body.kind,
        args=_checked(body.args),
        split=body.split,
        max_turns=body.max_turns,
        episode_seconds=body.episode_seconds,
        min_group=1,
    )


def check_scored(environment: EnvironmentSpec) -> None:
    """Check that revisions can be scored in a job's environment. Raises InvalidField."""
    if environment.is_session:
        raise InvalidField(field="evaluation", problem=_NOT_SCORED)


def _check_kind(body: EnvironmentBody) -> None:
    """Check what a kind needs. Raises InvalidField."""
    if body.kind == "session":
        if body.split != "train":
            problem = "agents choose their own tasks, so there are no splits: tell them one in args"
            raise InvalidField(field="env.split", problem=problem)
    elif not body.id:
        problem = f"is required: the name of an environment of kind {body.kind} (mint env list)"
        raise InvalidField(field="env.id", problem=problem)


def _checked(args: dict[str, object]) -> dict[str, object]:
    """Check that arguments are JSON of a size and depth to keep. Raises InvalidField."""
    waiting: list[tuple[object, int]] = [(args, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_ARGS_DEPTH:
            raise InvalidField(field="env.args", problem=f"nests deeper than {MAX_ARGS_DEPTH} levels")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(each, depth + 1) for each in inner]
    try:
        text = json.dumps(args, allow_nan=False)
    except ValueError as error:
        raise InvalidField(field="env.args", problem="has a number that is not finite") from error
    if len(text) > MAX_ARGS_BYTES:
        raise InvalidField(field="env.args", problem=f"may have {MAX_ARGS_BYTES} bytes at most")
    if "\\u0000" in text:
        raise InvalidField(field="env.args", problem="must not contain a null character")
    return args
