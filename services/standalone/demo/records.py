"""What the demo reads from the public API, as values; unknown fields of an answer are ignored."""

from dataclasses import dataclass

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The hyper-parameters that a task recommends."""

    steps: int
    max_new_tokens: int
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A held-out prompt; ``entry`` goes back to the scorer."""

    text: str
    reference: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A revision's name."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a job. ``ratio_max_error`` is the largest distance of an importance ratio from 1.

    ``seconds`` are the trainer's, export included; the wave was sampled from ``requested_at`` to
    ``completed_at``, in seconds since the epoch.
    """

    step: int
    state: str
    reward_mean: float | None = None
    revision: Ref | None = None
    ratio_max_error: float | None = None
    seconds: float | None = None
    requested_at: float | None = None
    completed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A managed job."""

    state: str
    reason: str = ""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A revision's weights on an engine."""

    digest: str
    tier: str
    readiness: str = ""


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
class Alias:
    """Where an alias points, and its history."""

    alias: str
    revision: Ref
    history: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion and the two places that name the revision which gave it."""

    text: str
    header: str
    fingerprint: str

    def is_from(self, digest: str) -> bool:
        """Say whether both places name this digest."""
        return self.header == self.fingerprint == digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One model over all held-out prompts: an answer and a reward for each, in their order."""

    model: str
    answers: tuple[Answer, ...]
    rewards: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Return the mean reward."""
        return sum(self.rewards) / len(self.rewards)
