"""Tasks, their descriptions, and the seeds that make their draws repeatable."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from mint_common.records import Prompt

Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefaults:
    """The recipe that a task recommends for a job; a user may change any of it."""

    steps: int
    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    temperature: float
    learning_rate: float
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """The description of a task."""

    name: str
    description: str
    defaults: TaskDefaults


class Task(Protocol):
    """Prompts with a verifiable reward. Pure: the same arguments give the same answer in every process.

    Promises: no prompt is in both splits; the reward of a prompt's reference is 1.0.
    """

    @property
    def name(self) -> str:
        """Return the name that jobs give: ``family`` or ``family:member``."""
        ...

    @property
    def description(self) -> str:
        """Return one sentence for people."""
        ...

    @property
    def defaults(self) -> TaskDefaults:
        """Return the recommended recipe."""
        ...

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return ``n`` prompts of a split, distinct while the split has enough."""
        ...

    def reward(self, entry: str, text: str) -> float:
        """Return the reward of a completion of the prompt with this entry; any text has one."""
        ...


class TaskFamily(Protocol):
    """The object of an entry point of the group `mint.tasks`: usually a class of tasks."""

    def members(self) -> Sequence[str]:
        """Return the names after the colon; none when the family is one task."""
        ...

    def __call__(self, member: str) -> Task:
        """Return the member's task; an empty member when there are none."""
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """A family that can say why names that a user expects are not tasks."""

    def left_out(self) -> Mapping[str, str]:
        """Return the reason for each such member, as the end of a sentence."""
        ...


def derive_seed(*parts: str | int) -> int:
    """Return a seed in 0 .. 2^31 - 1, a pure function of the parts.

    31 bits leave room for the engines that add an index to the seed for each of ``n`` samples.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def split_of(content: str, *, heldout_bytes: int) -> Split:
    """Return the split of some content: held out when the first byte of its sha256 is below the bound."""
    return "heldout" if hashlib.sha256(content.encode()).digest()[0] < heldout_bytes else "train"
