"""A server of OpenEnv that asks for sums: right at once, or a second try."""

from typing import Any

from openenv.core.env_server import Environment, create_app
from openenv.core.env_server.types import Action, Observation, State


class Guess(Action):
    """An answer with a number."""

    number: int
    reason: str = ""


class Seen(Observation):
    """A question."""

    prompt: str = ""


class AddEnv(Environment):
    """Two tries at a sum."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state, self.number = State(), 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Seen:
        self.number = (seed or 0) % 10
        self._state = State(episode_id=episode_id, step_count=0)
        return Seen(prompt=f'What is {self.number} + {self.number}? {{"number": {2 * self.number}}}')

    def step(self, action: Guess, timeout_s: float | None = None, **_: Any) -> Seen:
        self._state.step_count += 1
        right = action.number == 2 * self.number
        return Seen(prompt="again", reward=float(right), done=right)

    @property
    def state(self) -> State:
        return self._state


app = create_app(AddEnv, Guess, Seen, env_name="add", max_concurrent_envs=16)
