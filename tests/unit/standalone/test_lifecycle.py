"""What events make of a part's life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.standalone.core.lifecycle import (
    MAX_DELAY_SECONDS,
    RUNNING,
    START_ATTEMPTS,
    PartState,
    PartStatus,
    on_exit,
    on_not_started,
    on_ready,
    on_started,
    on_stop,
    on_stopped,
    rest_seconds,
)

jitters = st.floats(0.0, 1.0)


def test_the_schedule_doubles_up_to_its_limit() -> None:
    delays = [rest_seconds(n, jitter=1.0) for n in range(1, 9)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


@given(st.integers(1, 10_000), jitters)
def test_a_rest_is_between_half_and_all_of_the_schedule(failures: int, jitter: float) -> None:
    full = rest_seconds(failures, jitter=1.0)
    assert full / 2 <= rest_seconds(failures, jitter=jitter) <= full <= MAX_DELAY_SECONDS


def _ready(status: PartStatus, now: float) -> PartStatus:
    return on_ready(on_started(status, pid=1, now=now), now=now)


def test_a_healthy_minute_clears_the_count_of_failures() -> None:
    status = PartStatus()
    for _ in range(5):
        status = on_exit(_ready(status, 0.0), now=1.0, jitter=1.0)
    assert status.failures == 5
    status = on_exit(_ready(status, 10.0), now=70.0, jitter=1.0)
    assert (status.failures, status.resume_at) == (1, 70.2)


def test_a_part_that_was_never_ready_fails_for_good_after_its_attempts() -> None:
    status = PartStatus()
    for _ in range(START_ATTEMPTS):
        assert status.state is not PartState.FAILED
        status = on_exit(on_started(status, pid=1, now=0.0), now=0.0, jitter=0.0)
    assert status.state is PartState.FAILED


def test_a_part_that_was_ready_once_is_never_given_up() -> None:
    status = on_exit(_ready(PartStatus(), 0.0), now=1.0, jitter=0.0)
    for _ in range(100):
        status = on_exit(on_started(status, pid=1, now=1.0), now=1.0, jitter=0.0)
    assert status.state is PartState.RESTARTING


def test_a_process_that_cannot_be_started_is_an_attempt() -> None:
    ready = on_exit(_ready(PartStatus(), 0.0), now=1.0, jitter=0.0)
    again = on_not_started(ready, now=2.0, jitter=1.0)
    assert (again.state, again.starts, again.failures, again.pid) == (PartState.RESTARTING, 2, 2, None)
    never = PartStatus()
    for _ in range(START_ATTEMPTS):
        never = on_not_started(never, now=0.0, jitter=0.0)
    assert never.state is PartState.FAILED


@given(st.lists(st.tuples(st.sampled_from(["go", "exit", "stop"]), st.floats(0, 100), jitters), max_size=40))
def test_a_stopped_part_stays_stopped_and_only_a_running_part_has_a_process(
    events: list[tuple[str, float, float]],
) -> None:
    status, now, stopped = PartStatus(), 0.0, False
    for event, wait, jitter in events:
        now += wait
        if event == "stop":
            status = on_stop(status, now=now)
            stopped = True
        elif event == "exit" and status.state in RUNNING:
            status = on_exit(status, now=now, jitter=jitter)
        elif event == "exit" and status.state is PartState.STOPPING:
            status = on_stopped(status, now=now)
        elif event == "go" and status.state in {PartState.WAITING, PartState.RESTARTING} and not stopped:
            status = on_started(status, pid=7, now=now)
        elif event == "go" and status.state is PartState.STARTING:
            status = on_ready(status, now=now)
        assert (status.pid is not None) == (status.state in RUNNING | {PartState.STOPPING})
        assert status.state is not PartState.RESTARTING or status.resume_at > status.since
        if stopped:
            assert status.state in {PartState.STOPPING, PartState.STOPPED, PartState.FAILED}
        assert status.restarts == max(0, status.starts - 1)
