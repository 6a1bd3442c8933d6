"""How long a policy waits that cannot be worked on."""

from services.trainer.core.parking import MAX_SECONDS, park, retry_seconds


def test_retries_slow_down_and_never_end() -> None:
    assert [retry_seconds(failures) for failures in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
    assert retry_seconds(100) == retry_seconds(10_000) == MAX_SECONDS


def test_a_wait_counts_failures_and_is_told_once() -> None:
    parked, told = None, []
    for _ in range(5):
        parked = park(parked, code="unavailable", reason="gone", now=10.0)
        told.append(parked.is_news)
    assert (parked.failures, parked.retry_at) == (5, 26.0)
    assert told == [False, True, False, False, False]
