"""Decide whether to retry an engine or trainer, from its answers and the elapsed time."""

from dataclasses import dataclass, replace

from mint_common.errors import MintError, Overloaded, PeerFailed, Unavailable

MAX_FAILURES = 3
"""Maximum failures for one answer on an engine that answers: further attempts find the same fault."""
FIRST_WAIT_SECONDS = 0.2
MAX_WAIT_SECONDS = 5.0


class NoAnswer(MintError):
    """No answer after {calls} calls in {seconds} s: {problem}"""

    code = "no_answer"
    http_status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAttempts:
    """The calls for one answer: the first began at ``began_at``, the last ends ``limit_seconds`` later."""

    began_at: float
    limit_seconds: float
    calls: int = 0
    failures: int = 0

    def seconds_left(self, *, now: float) -> float:
        """Return how long a call may still take."""
        return self.began_at + self.limit_seconds - now

    def after(self, error: MintError, *, now: float) -> tuple["CallAttempts", float]:
        """Return the attempts after a call that failed, and how long to wait until the next one.

        An engine that is away or full costs no attempt. Raises the error when a later call would meet it
        again, and NoAnswer after too many failures, or too late.
        """
        if not error.retryable:
            raise error
        is_outage = isinstance(error, Overloaded | Unavailable) and not isinstance(error, PeerFailed)
        tried = replace(self, calls=self.calls + 1, failures=self.failures + (not is_outage))
        wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(self.calls, 16), MAX_WAIT_SECONDS)
        if tried.failures >= MAX_FAILURES or self.seconds_left(now=now) <= wait:
            raise self.given_up(error, now=now) from error
        return tried, wait

    def given_up(self, problem: object, *, now: float) -> NoAnswer:
        """Return the error of the last call."""
        return NoAnswer(calls=self.calls + 1, seconds=round(now - self.began_at), problem=str(problem))
