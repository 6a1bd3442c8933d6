"""Wraps tasks of third-party packages: any exception becomes a permanent error of the task."""

from collections.abc import Callable
from typing import TypeVar

from mint_common.errors import MintError, TaskFailed
from mint_common.graders import MAX_REWARD
from mint_common.records import Prompt
from services.rollout.core.task import Split, Task, TaskDefaults

T = TypeVar("T")


class GuardedTask:
    """A task whose calls raise MintErrors only, and whose rewards are finite, and at most `MAX_REWARD`."""

    def __init__(self, name: str, make: Callable[[], Task]) -> None:
        """Make the task. Raises TaskFailed."""
        self._task = guarded(name, make)
        self.name = name
        self.description: str = guarded(name, lambda: self._task.description)
        self.defaults: TaskDefaults = guarded(name, lambda: self._task.defaults)

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return prompts of a split. Raises InvalidField, TaskFailed."""
        return guarded(self.name, lambda: list(self._task.prompts(split, n, seed)))

    def reward(self, entry: str, text: str) -> float:
        """Return the reward of a completion. Raises InvalidField, TaskFailed."""
        reward = guarded(self.name, lambda: float(self._task.reward(entry, text)))
        if not abs(reward) <= MAX_REWARD:
            raise TaskFailed(task=self.name, problem=f"its reward is {reward}")
        return reward


def guarded(name: str, call: Callable[[], T]) -> T:
    """Return the result of a call into a task's code.

    Raises its MintErrors, and TaskFailed for other errors.
    """
    try:
        return call()
    except MintError:
        raise
    except Exception as error:
        raise TaskFailed(task=name, problem=f"{type(error).__name__}: {error}") from error
