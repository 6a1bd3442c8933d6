"""What the service and a worker process say to each other: one call, then one answer, in msgpack.

An answer is never taken on trust: it is read as the type that its call asks for, and is bounded in bytes.
"""

from collections.abc import Mapping, Sequence

import msgspec

from mint_common.records import Prompt
from services.rollout.core.task import Split, TaskInfo

MAX_ANSWER_BYTES = 32 << 20


class Opening(msgspec.Struct, frozen=True):
    """The first message: the families by name, as entry points write them, and the memory for tasks.

    A worker answers it with an empty message once it takes calls.
    """

    families: Mapping[str, str]
    memory_bytes: int


class ListTasks(msgspec.Struct, frozen=True, tag=True):
    """Describe every task."""


class ShowTask(msgspec.Struct, frozen=True, tag=True):
    """Describe one task."""

    task: str


class Draw(msgspec.Struct, frozen=True, tag=True):
    """Return prompts of a task."""

    task: str
    split: Split
    n: int
    seed: int


class Score(msgspec.Struct, frozen=True, tag=True):
    """Return the rewards of texts, each with the entry of the prompt that it answers."""

    task: str
    answers: Sequence[tuple[str, str]]


Call = ListTasks | ShowTask | Draw | Score


class Listed(msgspec.Struct, frozen=True, tag=True):
    """Tasks as they are told, and by family why others are not."""

    tasks: list[TaskInfo]
    broken: dict[str, str]


class Drawn(msgspec.Struct, frozen=True, tag=True):
    """Prompts."""

    prompts: list[Prompt]


class Scored(msgspec.Struct, frozen=True, tag=True):
    """Rewards, in the order of the texts."""

    rewards: list[float]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The call failed; ``error`` is a `MintError` payload."""

    error: dict[str, str | float | bool | None]


Answer = Listed | Drawn | Scored | Refused
