"""A job on a file besides its spec: the request's other fields, and the promotion of its result."""

from dataclasses import dataclass
from typing import Literal

from mint_common.events import LoraSpec
from mint_common.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """An alias to point at a job's result, if its score is ``at_least`` or ``at_most`` a limit.

    ``asked_by`` and ``key_id`` are the requesting key's; ``is_admin`` says whether it could move
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
        """Return the state of the promotion."""
        if self.ended_at is None:
            return "open"
        return "not_moved" if self.problem else "moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """The request of a job on a file besides its spec, complete: answers repeat it.

    ``hyperparameters`` have OpenAI's names. ``lora`` is the policy's shape.
    """

    model: str
    suffix: str | None
    metadata: dict[str, str] | None
    method: str
    hyperparameters: dict[str, float | str]
    lora: LoraSpec
    promote: Promotion | None = None
    integrations: tuple[JsonObject, ...] = ()
