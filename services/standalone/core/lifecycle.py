"""The life cycle of one supervised process: a state, and its transitions."""

from dataclasses import dataclass, replace
from enum import StrEnum


class PartState(StrEnum):
    """State of a part."""

    WAITING = "waiting"
    """Not started: a part that it needs is not ready."""
    STARTING = "starting"
    """Running, not ready yet."""
    READY = "ready"
    """Its readiness probe has succeeded since its start."""
    RESTARTING = "restarting"
    """It ended by itself and starts again at ``resume_at``."""
    STOPPING = "stopping"
    """It was asked to end."""
    STOPPED = "stopped"
    """It ended because it was asked to."""
    FAILED = "failed"
    """It never became ready in `START_ATTEMPTS`."""


RUNNING = frozenset({PartState.STARTING, PartState.READY})


FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.2, 10.0
HEALTHY_SECONDS = 60.0
"""Ready time after which the count of consecutive failures is cleared."""
START_ATTEMPTS = 4
"""Maximum starts of a part that was never ready; its settings are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """A part's state. Times are of one monotonic clock.

    ``starts`` counts processes; ``failures`` counts ends in a row.
    """

    state: PartState = PartState.WAITING
    starts: int = 0
    failures: int = 0
    since: float = 0.0
    was_ready: bool = False
    resume_at: float = 0.0
    pid: int | None = None

    @property
    def restarts(self) -> int:
        """Return how many times it was started again."""
        return max(0, self.starts - 1)


def rest_seconds(failures: int, *, jitter: float) -> float:
    """Return the delay after the ``failures``-th consecutive failure; ``jitter`` is in 0..1.

    Each delay is twice the previous one, up to the maximum, times 0.5 to 1.
    """
    delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 64), MAX_DELAY_SECONDS)
    return delay * (0.5 + 0.5 * jitter)


def on_started(status: PartStatus, *, pid: int, now: float) -> PartStatus:
    """Record that its process runs."""
    assert status.state in {PartState.WAITING, PartState.RESTARTING}, status.state
    return replace(status, state=PartState.STARTING, starts=status.starts + 1, since=now, pid=pid)


def on_ready(status: PartStatus, *, now: float) -> PartStatus:
    """Record that its readiness probe succeeded."""
    assert status.state is PartState.STARTING, status.state
    return replace(status, state=PartState.READY, since=now, was_ready=True)


def on_exit(status: PartStatus, *, now: float, jitter: float) -> PartStatus:
    """Record that it ended by itself or did not become ready in time."""
    assert status.state in RUNNING, status.state
    healthy = status.state is PartState.READY and now - status.since >= HEALTHY_SECONDS
    failures = 1 if healthy else status.failures + 1
    if not status.was_ready and failures >= START_ATTEMPTS:
        return replace(status, state=PartState.FAILED, failures=failures, since=now, pid=None)
    resume_at = now + rest_seconds(failures, jitter=jitter)
    return replace(
        status, state=PartState.RESTARTING, failures=failures, since=now, resume_at=resume_at, pid=None
    )


def on_not_started(status: PartStatus, *, now: float, jitter: float) -> PartStatus:
    """Record that its process could not be started, for example on a full disk; counts as a failed start."""
    assert status.state in {PartState.WAITING, PartState.RESTARTING}, status.state
    attempt = replace(status, state=PartState.STARTING, starts=status.starts + 1)
    return on_exit(attempt, now=now, jitter=jitter)


def on_stop(status: PartStatus, *, now: float) -> PartStatus:
    """Record that it is asked to end. A part that does not run has ended; a failed part stays failed."""
    if status.state in RUNNING:
        return replace(status, state=PartState.STOPPING, since=now)
    if status.state in {PartState.WAITING, PartState.RESTARTING}:
        return replace(status, state=PartState.STOPPED, since=now)
    return status


def on_stopped(status: PartStatus, *, now: float) -> PartStatus:
    """Record that all its processes have ended."""
    assert status.state is PartState.STOPPING, status.state
    return replace(status, state=PartState.STOPPED, since=now, pid=None)
