"""The life of one supervised process: a value, and what each event makes of it."""

from dataclasses import dataclass, replace
from enum import StrEnum


class PartState(StrEnum):
    """Where a part is in its life."""

    WAITING = "waiting"
    """Not started: something that it needs is not ready."""
    STARTING = "starting"
    """Running, not ready yet."""
    READY = "ready"
    """Its readiness probe has answered since it started."""
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
"""A run that was ready for so long clears the count of failures in a row."""
START_ATTEMPTS = 4
"""A part that has never been ready fails for good after so many: its settings are wrong, not its luck."""


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
    """Return how long to rest after the ``failures``-th failure in a row; ``jitter`` is in 0..1.

    Each rest is twice the one before, up to the longest, times 0.5 to 1.
    """
    delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 64), MAX_DELAY_SECONDS)
    return delay * (0.5 + 0.5 * jitter)


def on_started(status: PartStatus, *, pid: int, now: float) -> PartStatus:
    """A process of this part runs."""
    assert status.state in {PartState.WAITING, PartState.RESTARTING}, status.state
    return replace(status, state=PartState.STARTING, starts=status.starts + 1, since=now, pid=pid)


def on_ready(status: PartStatus, *, now: float) -> PartStatus:
    """Its readiness probe answered."""
    assert status.state is PartState.STARTING, status.state
    return replace(status, state=PartState.READY, since=now, was_ready=True)


def on_exit(status: PartStatus, *, now: float, jitter: float) -> PartStatus:
    """It ended by itself, or did not become ready in time."""
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
    """Its process could not be started, as where the disk is full: an attempt like one that ended at once."""
    assert status.state in {PartState.WAITING, PartState.RESTARTING}, status.state
    attempt = replace(status, state=PartState.STARTING, starts=status.starts + 1)
    return on_exit(attempt, now=now, jitter=jitter)


def on_stop(status: PartStatus, *, now: float) -> PartStatus:
    """It is asked to end. What does not run has ended already; what failed stays failed."""
    if status.state in RUNNING:
        return replace(status, state=PartState.STOPPING, since=now)
    if status.state in {PartState.WAITING, PartState.RESTARTING}:
        return replace(status, state=PartState.STOPPED, since=now)
    return status


def on_stopped(status: PartStatus, *, now: float) -> PartStatus:
    """Nothing of it runs any more."""
    assert status.state is PartState.STOPPING, status.state
    return replace(status, state=PartState.STOPPED, since=now, pid=None)
