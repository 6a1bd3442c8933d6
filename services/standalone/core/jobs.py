"""A managed job as the public API describes it; unknown fields of an answer are ignored."""

from dataclasses import dataclass

import msgspec

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A revision's number and digest."""

    number: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNow:
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
class JobNow:
    """A managed job."""

    state: str
    reason: str = ""
    steps: tuple[StepNow, ...] = ()


def read_job(answer: object) -> JobNow:
    """Return what ``GET /mint/v1/jobs/{job}`` answered."""
    return msgspec.convert(answer, JobNow)
