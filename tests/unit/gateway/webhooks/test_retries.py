"""What becomes of deliveries and of webhooks."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.webhooks.records import Attempt
from services.gateway.core.webhooks.retries import (
    MAX_DELAY_SECONDS,
    RetryPolicy,
    after_try,
    after_turn,
    backoff_seconds,
)

PATIENCE = RetryPolicy(first_delay_seconds=5.0, give_up_seconds=3 * 86_400.0)


def tried(status: int | None, *, at: float = 0.0) -> Attempt:
    problem = None if status is not None else "no answer in 10 s"
    return Attempt(at=at, seconds=0.1, status=status, problem=problem)


def test_a_delivery_ends_with_any_2xx() -> None:
    for status in (200, 202, 204, 299):
        outcome = after_try(tried(status), tries=1, created_at=0.0, retry=PATIENCE, jitter=0.0)
        assert (outcome.state, outcome.due_at) == ("delivered", None)


def test_whatever_else_is_tried_again_later_and_later() -> None:
    due = [
        after_try(tried(status), tries=tries, created_at=0.0, retry=PATIENCE, jitter=0.0).due_at
        for tries, status in enumerate((500, 404, 302, None, 429), start=1)
    ]
    assert due == [5.0, 10.0, 20.0, 40.0, 80.0]


def test_a_delivery_is_given_up_when_its_next_try_would_be_too_late() -> None:
    late = tried(500, at=PATIENCE.give_up_seconds - 1.0)
    outcome = after_try(late, tries=3, created_at=0.0, retry=PATIENCE, jitter=0.0)
    assert (outcome.state, outcome.due_at) == ("failed", None)


@given(tries=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_over_four_hours_nor_under_half_of_the_first(tries: int, jitter: float) -> None:
    assert 2.5 <= backoff_seconds(tries, PATIENCE, jitter) <= MAX_DELAY_SECONDS


def health(*attempts: Attempt, failures: int = 0, since: float | None = None):
    return after_turn(attempts, failures=failures, failing_since=since, retry=PATIENCE, jitter=0.0)


def test_one_success_makes_a_webhook_well() -> None:
    found = health(tried(500), tried(200), failures=3, since=-9.0)
    assert (found.state, found.failures, found.failing_since, found.rest_until) == ("active", 0, None, 0.0)


def test_a_webhook_that_fails_rests_longer_each_time() -> None:
    first = health(tried(500, at=1.0))
    assert (first.failures, first.failing_since, first.rest_until) == (1, 1.0, 6.0)
    second = health(tried(500, at=6.0), failures=1, since=1.0)
    assert (second.state, second.failures, second.failing_since, second.rest_until) == (
        "active",
        2,
        1.0,
        16.0,
    )


def test_a_webhook_that_has_failed_for_long_is_disabled_with_the_reason() -> None:
    found = health(tried(None, at=PATIENCE.give_up_seconds + 2.0), failures=40, since=1.0)
    assert found.state == "disabled"
    assert found.reason == "nothing was delivered for 259201 s; at last: no answer in 10 s"


def test_a_receiver_that_is_gone_for_good_says_so() -> None:
    assert health(tried(410)).reason == "the receiver answered 410 Gone"


def test_an_empty_turn_changes_no_health_for_the_worse() -> None:
    assert health(failures=0).state == "active"
