"""The answers of an environment's worker: untrusted, so each is read by its type and bounds."""

import math
from typing import Annotated, Any, TypeVar

import msgspec

from services.rollout.core.environment import MAX_REWARD, EnvironmentInfo, EnvironmentTask, EpisodeReport

MAX_ENTRY_CHARACTERS = 1 << 20
MAX_TEXT, MAX_SCORES, MAX_SCORE_NAME = 4000, 256, 200

_Name = Annotated[str, msgspec.Meta(max_length=MAX_SCORE_NAME)]
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class _Info(msgspec.Struct, frozen=True):
    description: _Text
    tasks: Annotated[int, msgspec.Meta(ge=0)] | None
    by_group: bool
    at_once: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Task(msgspec.Struct, frozen=True):
    key: _Name
    entry: Annotated[str, msgspec.Meta(max_length=MAX_ENTRY_CHARACTERS)]


class _Report(msgspec.Struct, frozen=True):
    reward: float | None = None
    scores: Annotated[dict[_Name, float], msgspec.Meta(max_length=MAX_SCORES)] = {}
    stop: _Text = ""
    is_truncated: bool = False
    error: str = ""


A = TypeVar("A")


def read_info(answer: Any) -> EnvironmentInfo:  # JSON
    """Return a description. Raises ValueError."""
    found = _read(answer, _Info)
    return EnvironmentInfo(
        description=found.description,
        tasks=found.tasks,
        by_group=found.by_group,
        at_once=found.at_once,
    )


def read_tasks(answer: Any, *, n: int) -> list[EnvironmentTask]:  # JSON
    """Return ``n`` tasks. Raises ValueError."""
    found = _read(answer, list[_Task])
    if len(found) != n:
        raise ValueError(f"it drew {len(found)} tasks, not {n}")
    return [EnvironmentTask(key=task.key, entry=task.entry) for task in found]


def read_reports(answer: Any, *, episodes: int) -> list[EpisodeReport]:  # JSON
    """Return the reports of episodes, in order. Raises ValueError.

    A report with an error, or without a reward, has none; a reward is finite and at most 1e6 in size.
    """
    found = _read(answer, list[_Report])
    if len(found) != episodes:
        raise ValueError(f"it reported {len(found)} episodes, not {episodes}")
    return [_report(each) for each in found]


def _report(found: _Report) -> EpisodeReport:
    values = [*found.scores.values(), *([] if found.reward is None else [found.reward])]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a reward or score is not finite")
    if found.reward is not None and abs(found.reward) > MAX_REWARD:
        raise ValueError(f"reward {found.reward:g} is beyond {MAX_REWARD:g}")
    error = found.error[:MAX_TEXT] or ("" if found.reward is not None else "it reported no reward")
    return EpisodeReport(
        reward=None if error else found.reward,
        scores=found.scores,
        stop=found.stop,
        is_truncated=found.is_truncated,
        error=error,
    )


def _read(answer: Any, kind: type[A]) -> A:  # JSON
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
