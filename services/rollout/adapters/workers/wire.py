"""The protocol between the service and a worker process: one call, then one answer, in msgpack.

Answers are untrusted: each is decoded as the type that its call expects, and is bounded in bytes.
"""

from collections.abc import Mapping, Sequence

import msgspec

from mint_common.records import Prompt
from services.rollout.core.task import Split, TaskInfo

MAX_ANSWER_BYTES = 32 << 20


class WorkerSetup(msgspec.Struct, frozen=True):
    """The first message: the families by name, as entry points write them, and the memory for tasks.

    A worker answers with an empty message when it is ready for calls.
    """

    families: Mapping[str, str]
    memory_bytes: int


class DescribeTasks(msgspec.Struct, frozen=True, tag=True):
    """Describe a task, or every task without a name."""

    task: str | None


class DrawPrompts(msgspec.Struct, frozen=True, tag=True):
    """Return prompts of a task."""

    task: str
    split: Split
    n: int
    seed: int


class ScoreTexts(msgspec.Struct, frozen=True, tag=True):
    """Return the rewards of texts, each with the entry of the prompt that it answers."""

    task: str
    answers: Sequence[tuple[str, str]]


Call = DescribeTasks | DrawPrompts | ScoreTexts


class ListedTasks(msgspec.Struct, frozen=True, tag=True):
    """Descriptions of tasks, and with all tasks the problem of each family that did not load."""

    tasks: list[TaskInfo]
    broken: dict[str, str]


class DrawnPrompts(msgspec.Struct, frozen=True, tag=True):
    """Prompts."""

    prompts: list[Prompt]


class ScoredTexts(msgspec.Struct, frozen=True, tag=True):
    """Rewards, in the order of the texts."""

    rewards: list[float]


class CallFailed(msgspec.Struct, frozen=True, tag=True):
    """The call failed; ``error`` is a `MintError` payload."""

    error: dict[str, str | float | bool | None]


Answer = ListedTasks | DrawnPrompts | ScoredTexts | CallFailed
