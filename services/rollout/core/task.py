"""Descriptions of tasks, and the seeds that make their draws repeatable."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

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


def derive_seed(*parts: str | int) -> int:
    """Return a seed in 0 .. 2^31 - 1, a pure function of the parts.

    31 bits leave room for the engines that add an index to the seed for each of ``n`` samples.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def split_of(content: str, *, heldout_bytes: int) -> Split:
    """Return the split of some content: held out when the first byte of its sha256 is below the bound."""
    return "heldout" if hashlib.sha256(content.encode()).digest()[0] < heldout_bytes else "train"
