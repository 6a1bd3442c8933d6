"""A job on a file as the gateway keeps it, and as the rollout service tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mint_common.events import LoraSpec
from mint_common.ids import Digest

ENDED = frozenset({"succeeded", "failed", "cancelled"})

Verb = Literal["cancel", "pause", "resume"]
"""What a tenant may do to a job."""

METRICS: Mapping[str, str] = {
    "train_loss": "loss",
    "train_mean_token_accuracy": "mean_token_accuracy",
    "train_reward_mean": "reward_mean",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    "valid_reward_mean": "valid_reward_mean",
    "valid_reward_margin": "valid_reward_margin",
    "valid_reward_accuracy": "valid_reward_accuracy",
}
"""The metrics of a step by the names that users know, each with its field of `TunedStep`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """An alias that is pointed at a job's result, if its score is ``at_least`` or ``at_most`` so much.

    ``asked_by`` and ``key_id`` are of the key that asked for it; ``is_admin`` says whether it could move
    protected aliases then.
    ``ended_at``, in seconds since the epoch, is when the alias was moved, or was not for a ``problem``.
    """

    alias: str
    at_least: float | None
    at_most: float | None
    asked_by: str
    key_id: str
    is_admin: bool
    ended_at: float | None = None
    problem: str = ""

    @property
    def state(self) -> Literal["open", "moved", "not_moved"]:
        """Return what has come of it."""
        if self.ended_at is None:
            return "open"
        return "not_moved" if self.problem else "moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """What the request of a job on a file said beside its spec, complete: answers repeat it.

    ``hyperparameters`` have OpenAI's names. ``lora`` is the policy's shape.
    """

    model: str
    suffix: str | None
    metadata: dict[str, str] | None
    method: str
    hyperparameters: dict[str, float | str]
    lora: LoraSpec
    promote: Promotion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a step published."""

    digest: Digest
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BestStep:
    """The step that led to the best revision so far."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedFault:
    """Why a job failed by its data: ``line`` is of the file that ``param`` names."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedStep:
    """One step of a job: what it trained on, and what its revision was measured at. Times in seconds.

    ``scored_at`` is when sampling had measured it.
    """

    step: int
    state: str
    requested_at: float
    published_at: float | None = None
    scored_at: float | None = None
    revision: Revision | None = None
    epoch: float | None = None
    learning_rate: float | None = None
    loss: float | None = None
    mean_token_accuracy: float | None = None
    reward_mean: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    valid_reward_mean: float | None = None
    valid_reward_margin: float | None = None
    valid_reward_accuracy: float | None = None
    grader_errors: dict[str, int] = field(default_factory=dict)
    dropped_rows: int = 0

    @property
    def metrics(self) -> dict[str, float | None]:
        """Return what it was measured at, by the names of `METRICS`."""
        return {name: getattr(self, attribute) for name, attribute in METRICS.items()}

    @property
    def is_evaluated(self) -> bool:
        """Return whether its revision was measured on validation rows."""
        return any(value is not None for value in (self.valid_loss, self.valid_reward_mean))


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedJob:
    """A job. ``step`` counts finished steps; ``result`` is the chosen revision of one that succeeded.

    ``best`` is by what its revisions are compared by; by their samples where nothing is measured.
    ``is_pausing``: it rests when its open step has ended.
    """

    state: str
    is_pausing: bool = False
    reason: str = ""
    step: int = 0
    total_steps: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    result: Revision | None = None
    best: BestStep | None = None
    stopped_early: bool = False
    trained_tokens: int | None = None
    fault: TunedFault | None = None
    steps: tuple[TunedStep, ...] = ()

    @property
    def status(self) -> str:
        """Return the state as OpenAI's API names it: a job's files were checked before it was made."""
        if self.is_pausing and self.state == "running":
            return "pausing"
        return "queued" if self.state == "submitted" else self.state

    @property
    def is_ended(self) -> bool:
        """Return whether nothing changes any more."""
        return self.state in ENDED


def model_name(policy: str, revision: Revision) -> str:
    """Return the name of a revision, which never means another one."""
    return f"{policy}@{revision.number}"
