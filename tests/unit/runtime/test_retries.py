"""What becomes of a failed event."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import AdapterInvalid, EventInvalid, MintError, Overloaded, Unavailable
from mint_common.runtime.retries import MAX_DELAY_SECONDS, Bury, RetryLater, decide

AWAY = Unavailable(what="postgres", problem="connection refused")
FULL = Overloaded(what="queue", depth=9, retry_after_seconds=7.0)
BAD = AdapterInvalid(reason="rank", problem="needs rank <= 16, found 32")
BUG = ValueError("a bug")

ERRORS = st.sampled_from([AWAY, FULL, BAD, BUG, EventInvalid(type="?", problem="x"), MintError()])


@given(ERRORS, st.integers(1, 10_000), st.floats(0, 0.999))
def test_every_failure_is_retried_in_bounded_time_or_buried(
    error: Exception, attempt: int, jitter: float
) -> None:
    decision = decide(error, attempt=attempt, max_attempts=20, jitter=jitter)
    if isinstance(decision, RetryLater):
        assert 0.1 <= decision.delay_seconds <= MAX_DELAY_SECONDS
    else:
        assert decision.reason


def test_delays_double_from_a_fifth_of_a_second_to_half_a_minute() -> None:
    delays = [decide(BUG, attempt=attempt, max_attempts=20, jitter=0) for attempt in range(1, 11)]
    seconds = [decision.delay_seconds for decision in delays if isinstance(decision, RetryLater)]
    assert seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_jitter_shortens_a_delay_by_up_to_half() -> None:
    assert decide(BUG, attempt=2, max_attempts=20, jitter=0.5) == RetryLater(delay_seconds=0.4 * 0.75)


def test_an_error_that_a_retry_cannot_help_is_buried_at_once() -> None:
    decision = decide(BAD, attempt=1, max_attempts=20, jitter=0)
    assert decision == Bury(code="adapter_invalid", reason=f"AdapterInvalid: {BAD}")


def test_an_unknown_error_is_buried_after_the_last_attempt() -> None:
    assert isinstance(decide(BUG, attempt=19, max_attempts=20, jitter=0), RetryLater)
    assert decide(BUG, attempt=20, max_attempts=20, jitter=0) == Bury(
        code="internal", reason="ValueError: a bug"
    )


def test_a_part_that_is_away_or_full_is_waited_for_without_a_limit() -> None:
    for error in (AWAY, FULL):
        decision = decide(error, attempt=1000, max_attempts=20, jitter=0)
        assert isinstance(decision, RetryLater)
        assert decision.delay_seconds <= 7.0


def test_an_overloaded_part_says_how_long_to_wait() -> None:
    assert decide(FULL, attempt=1, max_attempts=20, jitter=0) == RetryLater(delay_seconds=7.0)
