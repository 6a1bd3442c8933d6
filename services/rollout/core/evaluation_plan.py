"""The plan of an evaluation run: prompts of a task, rows of a file, or episodes, completely checked."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from mint_common.bounds import check_between
from mint_common.datasets import FORMATS, Format
from mint_common.errors import InvalidField
from mint_common.job_requests import EvaluatedEnvironmentBody, Questions
from mint_common.lora import MAX_SEED
from services.rollout.core.environment_plan import (
    check_samples,
    environment_defaults,
    plan_scored_environment,
    suite_of_environment,
)
from services.rollout.core.evaluation import LOSS, REWARD, EvaluationData
from services.rollout.core.files.records import FileRecord, job_file

MAX_ITEMS = 4096
"""Prompts or rows that a run has at most."""
TASK_PROMPTS = 64
TASK_TOKENS = 16
FILE_TOKENS = 256
MAX_TEMPERATURE = 2.0

RunPart = dict[str, Any]
"""Fields of an `EvaluationRun`."""


def check_questions(asked: Questions) -> None:
    """Refuse questions of none or several kinds. Raises InvalidField."""
    if sum(each is not None for each in (asked.task, asked.file, asked.env)) != 1:
        raise InvalidField(field="task", problem="give exactly one of `task`, `file` and `env`")
    if asked.env is None and asked.samples != 1:
        raise InvalidField(field="samples", problem="goes with env: prompts and rows have one answer each")
    if asked.file is None and asked.grader is not None:
        what = "a task" if asked.env is None else "an environment"
        raise InvalidField(field="grader", problem=f"goes with a file: {what} has rewards of its own")
    if asked.file is not None and asked.grader is None:
        for field in ("temperature", "max_new_tokens"):
            if getattr(asked, field):
                raise InvalidField(field=field, problem="goes with a grader: nothing is sampled for a loss")


def plan_task(asked: Questions, defaults: Mapping[str, float], *, max_context: int) -> RunPart:
    """Return the run's part about a task. Raises InvalidField."""
    tokens = int(defaults.get("max_new_tokens", TASK_TOKENS))
    n = TASK_PROMPTS if asked.n is None else asked.n
    return {"task": asked.task, "data": None, **_plan(asked, str(asked.task), n, tokens, max_context)}


def plan_episodes(asked: Questions, body: EvaluatedEnvironmentBody, *, max_context: int) -> RunPart:
    """Return the run's part about an environment. Raises InvalidField."""
    environment = plan_scored_environment(body)
    tokens = int(environment_defaults(max_context=max_context)["max_new_tokens"])
    n = TASK_PROMPTS if asked.n is None else asked.n
    part = _plan(asked, suite_of_environment(environment), n, tokens, max_context)
    check_samples("samples", asked.samples, n=n)
    return {"task": "", "data": None, "environment": environment, "samples": asked.samples, **part}


def plan_file(asked: Questions, file: FileRecord, *, max_context: int) -> RunPart:
    """Return the run's part about a file. Raises InvalidField."""
    if file.format is None or file.rows is None:
        raise InvalidField(field="file", problem="was not checked as rows: they are uploaded for fine-tune")
    _check_format(file.format, has_grader=asked.grader is not None)
    if asked.n is not None and asked.n > file.rows:
        raise InvalidField(field="n", problem=f"is {asked.n}, the file has {file.rows} rows")
    n = min(file.rows, MAX_ITEMS) if asked.n is None else asked.n
    tokens = 1 if asked.grader is None else min(FILE_TOKENS, max(1, max_context // 2))
    data = EvaluationData(file=job_file(file), holdout=0.0, grader=asked.grader, on_long=asked.on_long)
    return {"task": "", "data": data, **_plan(asked, _suite_of(file, asked.grader), n, tokens, max_context)}


def _suite_of(file: FileRecord, grader: Mapping[str, Any] | None) -> str:
    """Return the suite of a file's scores, the same for equal graders."""
    if grader is None:
        return f"file:{file.file_id}"
    content = json.dumps(grader, sort_keys=True, separators=(",", ":")).encode()
    return f"file:{file.file_id}:{sha256(content).hexdigest()[:8]}"


def _check_format(kind: Format, *, has_grader: bool) -> None:
    if has_grader and kind is not Format.REWARD:
        problem = f"is of format {kind}: a grader takes rows of format reward, which end with the user"
        raise InvalidField(field="file", problem=problem)
    if not has_grader and kind is Format.REWARD:
        raise InvalidField(field="grader", problem="is missing: rows of format reward have no answers")
    if not has_grader and kind not in FORMATS["sft"]:
        problem = f"is of format {kind}: a loss is measured on {', '.join(sorted(FORMATS['sft']))}"
        raise InvalidField(field="file", problem=problem)


def _plan(asked: Questions, suite: str, n: int, tokens: int, max_context: int) -> RunPart:
    check_between("n", n, 1, MAX_ITEMS)
    check_between("seed", asked.seed, 0, MAX_SEED)
    check_between("temperature", asked.temperature, 0, MAX_TEMPERATURE)
    wanted = tokens if asked.max_new_tokens is None else asked.max_new_tokens
    check_between("max_new_tokens", wanted, 1, max_context - 1)
    return {
        "suite": suite if asked.suite is None else asked.suite,
        "metric": REWARD if asked.file is None or asked.grader is not None else LOSS,
        "n": n,
        "seed": asked.seed,
        "temperature": asked.temperature,
        "max_new_tokens": wanted,
    }
