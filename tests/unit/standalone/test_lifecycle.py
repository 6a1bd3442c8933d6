"""What events make of a part's life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.standalone.core.lifecycle import (
    RUNNING,
    Life,
    PartState,
    RestartPolicy,
    on_exit,
    on_ready,
    on_started,
    on_stop,
    on_stopped,
    rest_seconds,
)

POLICY = RestartPolicy()
jitters = st.floats(0.0, 1.0)


def test_the_schedule_doubles_up_to_its_limit() -> None:
    delays = [rest_seconds(n, POLICY, jitter=1.0) for n in range(1, 9)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


@given(st.integers(1, 10_000), jitters)
def test_a_rest_is_between_half_and_all_of_the_schedule(failures: int, jitter: float) -> None:
    full = rest_seconds(failures, POLICY, jitter=1.0)
    assert full / 2 <= rest_seconds(failures, POLICY, jitter=jitter) <= full <= POLICY.longest_delay_seconds


def _ready(life: Life, now: float) -> Life:
    return on_ready(on_started(life, pid=1, now=now), now=now)


def test_a_healthy_minute_clears_the_count_of_failures() -> None:
    life = Life()
    for _ in range(5):
        life = on_exit(_ready(life, 0.0), POLICY, now=1.0, jitter=1.0)
    assert life.failures == 5
    life = on_exit(_ready(life, 10.0), POLICY, now=70.0, jitter=1.0)
    assert (life.failures, life.resume_at) == (1, 70.2)


def test_a_part_that_was_never_ready_fails_for_good_after_its_attempts() -> None:
    life = Life()
    for _ in range(POLICY.start_attempts):
        assert life.state is not PartState.FAILED
        life = on_exit(on_started(life, pid=1, now=0.0), POLICY, now=0.0, jitter=0.0)
    assert life.state is PartState.FAILED


def test_a_part_that_was_ready_once_is_never_given_up() -> None:
    life = on_exit(_ready(Life(), 0.0), POLICY, now=1.0, jitter=0.0)
    for _ in range(100):
        life = on_exit(on_started(life, pid=1, now=1.0), POLICY, now=1.0, jitter=0.0)
    assert life.state is PartState.RESTING


@given(st.lists(st.tuples(st.sampled_from(["go", "exit", "stop"]), st.floats(0, 100), jitters), max_size=40))
def test_a_stopped_part_stays_stopped_and_only_a_running_part_has_a_process(
    events: list[tuple[str, float, float]],
) -> None:
    life, now, stopped = Life(), 0.0, False
    for event, wait, jitter in events:
        now += wait
        if event == "stop":
            life = on_stop(life, now=now)
            stopped = True
        elif event == "exit" and life.state in RUNNING:
            life = on_exit(life, POLICY, now=now, jitter=jitter)
        elif event == "exit" and life.state is PartState.STOPPING:
            life = on_stopped(life, now=now)
        elif event == "go" and life.state in {PartState.WAITING, PartState.RESTING} and not stopped:
            life = on_started(life, pid=7, now=now)
        elif event == "go" and life.state is PartState.STARTING:
            life = on_ready(life, now=now)
        assert (life.pid is not None) == (life.state in RUNNING | {PartState.STOPPING})
        assert life.state is not PartState.RESTING or life.resume_at > life.since
        if stopped:
            assert life.state in {PartState.STOPPING, PartState.STOPPED, PartState.FAILED}
        assert life.restarts == max(0, life.starts - 1)
