"""Two turns of adding for tinker-cookbook; the group's longest answer gets one more."""

from collections.abc import Sequence
from typing import Any

import tinker
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult, Trajectory


class Add(Env):
    """An observation that grows by what was said."""

    def __init__(self, number: int) -> None:
        self.tokens, self.turn = list(f"{number}+{number}=".encode()), 0

    async def initial_observation(self) -> Any:
        return tinker.ModelInput.from_ints(self.tokens), [10]

    async def step(self, action: Any, *, extra: Any = None) -> StepResult:
        self.turn += 1
        self.tokens = self.tokens + list(action) + list(b"\nagain:")
        return StepResult(
            reward=float(len(action)),
            episode_done=self.turn == 2,
            next_observation=tinker.ModelInput.from_ints(self.tokens),
            next_stop_condition=[10],
        )


class Adding(EnvGroupBuilder):
    """Groups of two."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def make_envs(self) -> Sequence[Env]:
        return [Add(self.number), Add(self.number)]

    async def compute_group_rewards(
        self, trajectory_group: list[Trajectory], env_group: Sequence[Env]
    ) -> list[tuple[float, Any]]:
        return [(float(place), {"place": place}) for place, _ in enumerate(trajectory_group)]


def groups(n: int) -> list[Adding]:
    """Return builders of groups."""
    return [Adding(number) for number in range(n)]
