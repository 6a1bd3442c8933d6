"""What the demo reads from the public API, as values; unknown fields of an answer are ignored."""

from dataclasses import dataclass

from services.standalone.adapters.public_api import Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The hyper-parameters that a task recommends."""

    steps: int
    max_new_tokens: int
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutPrompt:
    """A held-out prompt; ``entry`` goes back to the scorer."""

    text: str
    reference: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One row of an alias's history."""

    sequence: int
    previous: str | None
    digest: str
    number: int
    reason: str = ""
    actor: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model over all held-out prompts: an answer and a reward for each, in their order."""

    model: str
    answers: tuple[Completed, ...]
    rewards: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Return the mean reward."""
        return sum(self.rewards) / len(self.rewards)
