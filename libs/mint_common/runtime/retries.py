"""The decision about an event whose handler failed, from the error and the attempt alone."""

from dataclasses import dataclass

from mint_common.errors import MintError, Overloaded, Unavailable

FIRST_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 30.0
MAX_OUTAGE_DELAY_SECONDS = 5.0
"""Maximum delay of an event after the part that it waits for has returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLater:
    """Handle it again after a while."""

    delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury:
    """Put it among the dead letters: trying again cannot help, or did not help often enough."""

    code: str
    reason: str


def decide(error: Exception, *, attempt: int, max_attempts: int, jitter: float) -> RetryLater | Bury:
    """Return what to do after the given attempt (from 1) failed; ``jitter`` is random in [0, 1).

    An unavailable or full dependency is not the event's fault, so the event is retried without a limit.
    """
    retryable = error.retryable if isinstance(error, MintError) else True
    is_outage = isinstance(error, Unavailable | Overloaded)
    if retryable and (is_outage or attempt < max_attempts):
        longest = MAX_OUTAGE_DELAY_SECONDS if is_outage else MAX_DELAY_SECONDS
        delay_seconds = max(_backoff_seconds(attempt, longest, jitter), _asked_seconds(error))
        return RetryLater(delay_seconds=delay_seconds)
    code = error.code if isinstance(error, MintError) else "internal"
    return Bury(code=code, reason=f"{type(error).__name__}: {error}")


def _backoff_seconds(attempt: int, longest: float, jitter: float) -> float:
    doubled = FIRST_DELAY_SECONDS * 2.0 ** min(attempt - 1, 16)
    return min(doubled, longest) * (1.0 - 0.5 * jitter)


def _asked_seconds(error: Exception) -> float:
    """Return how long an overloaded part asked to wait, within reason."""
    if not isinstance(error, Overloaded):
        return 0.0
    return min(float(error.fields.get("retry_after_seconds", 0.0)), MAX_DELAY_SECONDS)
