"""The state of a delivery after an attempt, and of a webhook after its deliveries, computed from values."""

from dataclasses import dataclass
from typing import Literal

from services.gateway.core.webhooks.records import Attempt, DeliveryState

MAX_DELAY_SECONDS = 4 * 3600.0
ACTIVE_AGAIN_SECONDS = 10.0
"""Minimum pause of a failing webhook that is activated or replayed: clients may repeat that endlessly."""
MAX_WAITING = 10_000
"""Maximum deliveries that wait for a webhook which accepts none."""
OVERFULL = f"{MAX_WAITING} deliveries are waiting for it"
"""Reason that disables a webhook with too many waiting deliveries."""
GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The first delay after a failed delivery, and the time after which a delivery or webhook is given up."""

    first_delay_seconds: float
    give_up_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The state of a delivery after a try; ``due_at`` is None once it is not tried again."""

    state: DeliveryState
    due_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of a webhook after its turn, with the reason."""

    state: Literal["active", "disabled"]
    reason: str | None
    failures: int
    failing_since: float | None
    rest_until: float
    """Time before which nothing is sent to it."""


def is_success(attempt: Attempt) -> bool:
    """Return whether a receiver accepted the message, with any 2xx. Redirects count as failures."""
    return attempt.status is not None and 200 <= attempt.status < 300


def after_try(
    attempt: Attempt, *, tries: int, created_at: float, retry: RetryPolicy, jitter: float
) -> Outcome:
    """Return the outcome of a delivery after attempt ``tries`` (from 1).

    ``jitter`` is random in [0, 1), so that receivers that failed together are retried at different times.
    """
    if is_success(attempt):
        return Outcome(state="delivered", due_at=None)
    due_at = attempt.at + backoff_seconds(tries, retry, jitter)
    if due_at - created_at > retry.give_up_seconds:
        return Outcome(state="failed", due_at=None)
    return Outcome(state="waiting", due_at=due_at)


def after_turn(
    attempts: tuple[Attempt, ...],
    *,
    failures: int,
    failing_since: float | None,
    retry: RetryPolicy,
    jitter: float,
) -> Health:
    """Return a webhook's health after some attempts; ``failures`` counts turns without a success."""
    if any(map(is_success, attempts)) or not attempts:
        return Health(state="active", reason=None, failures=0, failing_since=None, rest_until=0.0)
    last = attempts[-1]
    since = attempts[0].at if failing_since is None else failing_since
    reason = None
    if any(attempt.status == GONE for attempt in attempts):
        reason = "the receiver answered 410 Gone"
    elif last.at - since > retry.give_up_seconds:
        reason = f"nothing was delivered for {last.at - since:.0f} s; at last: {told(last)}"
    return Health(
        state="active" if reason is None else "disabled",
        reason=reason,
        failures=failures + 1,
        failing_since=since,
        rest_until=last.at + backoff_seconds(failures + 1, retry, jitter),
    )


def backoff_seconds(tries: int, retry: RetryPolicy, jitter: float) -> float:
    """Return the delay after the given number of attempts: doubled each time, up to 4 hours."""
    doubled = retry.first_delay_seconds * 2.0 ** min(tries - 1, 30)
    return min(doubled, MAX_DELAY_SECONDS) * (1.0 - 0.5 * jitter)


def told(attempt: Attempt) -> str:
    """Return the result of an attempt as text."""
    return attempt.problem or f"status {attempt.status}"
