"""Answers calls by running the code of tasks; a task's error is an answer too."""

from typing import cast

import msgspec

from mint_common.errors import MintError, TaskFailed
from services.rollout.adapters.tasks.catalog import InstalledTasks
from services.rollout.adapters.workers.wire import (
    MAX_ANSWER_BYTES,
    Answer,
    Call,
    CallFailed,
    DrawnPrompts,
    DrawPrompts,
    ListedTasks,
    ListTasks,
    ScoredTexts,
    ScoreTexts,
    ShowTask,
)
from services.rollout.core.task import TaskInfo
from services.rollout.ports import Task


def answer_call(tasks: InstalledTasks, call: Call) -> bytes:
    """Return the encoded answer."""
    try:
        return _encoded(_answer(tasks, call), call)
    except MintError as error:
        payload = cast("dict[str, str | float | bool | None]", error.to_payload())
        return msgspec.msgpack.encode(CallFailed(error=payload))


def _answer(tasks: InstalledTasks, call: Call) -> Answer:
    match call:
        case ListTasks():
            infos = [_info(tasks.task(name)) for name in tasks.names()]
            return ListedTasks(tasks=infos, broken=tasks.broken)
        case ShowTask():
            return ListedTasks(tasks=[_info(tasks.task(call.task))], broken={})
        case DrawPrompts():
            return DrawnPrompts(prompts=tasks.task(call.task).prompts(call.split, call.n, call.seed))
        case ScoreTexts():
            task = tasks.task(call.task)
            return ScoredTexts(rewards=[task.reward(entry, text) for entry, text in call.answers])


def _encoded(answer: Answer, call: Call) -> bytes:
    try:
        data = msgspec.msgpack.encode(answer)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TaskFailed(task=_task_of(call), problem=f"its answer cannot be sent: {error}") from error
    if len(data) > MAX_ANSWER_BYTES:
        problem = f"its answer has {len(data)} bytes, the limit is {MAX_ANSWER_BYTES}: ask for less at once"
        raise TaskFailed(task=_task_of(call), problem=problem)
    return data


def _task_of(call: Call) -> str:
    return "" if isinstance(call, ListTasks) else call.task


def _info(task: Task) -> TaskInfo:
    return TaskInfo(name=task.name, description=task.description, defaults=task.defaults)
