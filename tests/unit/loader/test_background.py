"""Interactive sequences have precedence, and background ones a bounded share of an engine's time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.fair_queue import FairQueue
from services.loader.core.background import (
    EXPECTED_SECONDS,
    SHARE,
    BackgroundShare,
    background_reserve,
    background_to_preempt,
)

steps = st.lists(st.tuples(st.floats(0.001, 0.5), st.floats(0.001, 0.5)), min_size=1, max_size=200)
"""The durations that each step has if it is interactive, or a background one."""


def run(share: BackgroundShare, durations: list[tuple[float, float]], *, now: float) -> tuple[float, float]:
    """Plan steps while there is work of both kinds; return the seconds of all, and of background ones."""
    began, background = now, 0.0
    for interactive_seconds, background_seconds in durations:
        if share.sits_out(has_interactive=True, now=now):
            now += interactive_seconds
            share.end_step(interactive_seconds, has_interactive=True, has_background=False, now=now)
        else:
            now += background_seconds
            background += background_seconds
            share.end_step(background_seconds, has_interactive=False, has_background=True, now=now)
    return now - began, background


@given(steps)
def test_beside_interactive_sequences_background_ones_have_their_share_and_one_step(
    durations: list[tuple[float, float]],
) -> None:
    seconds, background = run(BackgroundShare(), durations, now=100.0)
    assert background <= SHARE * seconds + 0.5 + 1e-6


def test_beside_endless_interactive_sequences_background_ones_do_not_starve() -> None:
    seconds, background = run(BackgroundShare(), [(0.06, 0.3)] * 2000, now=100.0)
    assert background / seconds == pytest.approx(SHARE, abs=0.03)


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=50), st.floats(2 * EXPECTED_SECONDS, 100.0))
def test_without_interactive_sequences_background_ones_have_every_step(
    durations: list[float], quiet: float
) -> None:
    share = BackgroundShare()
    seconds, _ = run(share, [(0.06, 0.3)] * 10, now=100.0)
    now = 100.0 + seconds + quiet
    for duration in durations:
        assert not share.sits_out(has_interactive=False, now=now)
        now += duration
        share.end_step(duration, has_interactive=False, has_background=True, now=now)
    assert share.sits_out(has_interactive=True, now=now), "who comes next does not wait for another step"
    assert not share.sits_out(has_interactive=True, now=now + durations[-1] / SHARE + 1e-6)


def test_the_next_request_of_a_client_that_asks_one_by_one_is_expected() -> None:
    share = BackgroundShare()
    seconds, _ = run(share, [(0.06, 0.3)] * 3, now=100.0)
    now = 100.0 + seconds
    assert share.sits_out(has_interactive=False, now=now + EXPECTED_SECONDS / 2)
    assert not share.sits_out(has_interactive=False, now=now + 2 * EXPECTED_SECONDS)


@given(st.integers(0, 100), st.integers(-8, 64), st.integers(0, 64), st.integers(1, 8))
def test_background_sequences_leave_the_seats_that_are_missing_but_their_reserve(
    waiting: int, free: int, background: int, reserve: int
) -> None:
    count = background_to_preempt(waiting=waiting, free=free, background=background, reserve=reserve)
    assert 0 <= count <= background
    if count:
        assert background - count >= reserve
        assert count <= waiting
    elif waiting > max(0, free):
        assert background <= reserve


@given(st.integers(1, 9), st.integers(1, 16))
def test_what_starts_in_the_reserve_is_not_preempted_for_it(tenants: int, reserve: int) -> None:
    queue: FairQueue[int] = FairQueue(seats=0, reserve=background_reserve(reserve))
    for number in range(100):
        queue.push(str(number % tenants), number)
    while found := queue.next():
        queue.start(found[0])
    assert 1 <= queue.seated <= (reserve + 1) // 2
    assert not background_to_preempt(waiting=99, free=0, background=queue.seated, reserve=queue.reserve)
