"""Retry times of work that failed for a reason that may pass: soon at first, then once a minute."""

from dataclasses import dataclass

FIRST_SECONDS, MAX_SECONDS = 1.0, 60.0
TOLD_AT = 2
"""The failure at which an event tells that a policy is parked: one that the first retry mends is no news."""


def retry_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return min(FIRST_SECONDS * 2.0 ** min(max(failures - 1, 0), 16), MAX_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A policy whose next operation waits: why, after how many failures, and until when (monotonic)."""

    code: str
    reason: str
    failures: int
    retry_at: float

    @property
    def is_news(self) -> bool:
        """Return whether an event is due."""
        return self.failures == TOLD_AT


def park(before: Parked | None, *, code: str, reason: str, now: float) -> Parked:
    """Return a policy's wait after one more failure."""
    failures = 1 + (before.failures if before else 0)
    return Parked(code=code, reason=reason, failures=failures, retry_at=now + retry_seconds(failures))
