"""Turns with pauses keep to their share of the loop, and a refusal says how fast the queue moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.runtime.fair_gate import MAX_RETRY_SECONDS, LoopShare


@given(
    st.floats(0.05, 1.0),
    st.lists(st.tuples(st.floats(0.0, 0.05), st.floats(0.0, 0.01)), min_size=1, max_size=60),
)
def test_turns_take_their_share_of_any_span_and_one_turn(share, tries):
    turns, now, spans = LoopShare(share=share), 0.0, []
    for pause, seconds in tries:
        now += pause
        now += turns.wait_seconds(now)
        spans.append((now, now + seconds))
        now += seconds
        turns.end(now, seconds=seconds, waiting=1)
    for first, (begin, _) in enumerate(spans):
        for last in range(first, len(spans)):
            taken = [end - start for start, end in spans[first : last + 1]]
            assert sum(taken) <= share * (spans[last][1] - begin) + max(taken) + 1e-6


def test_the_pause_is_as_long_as_the_share_asks():
    turns = LoopShare(share=0.1)
    turns.end(5.0, seconds=0.002, waiting=1)
    assert turns.wait_seconds(5.0) == pytest.approx(0.018)
    assert turns.wait_seconds(6.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 9)), min_size=1, max_size=30))
def test_retry_after_stays_within_bounds(ends):
    turns, now = LoopShare(share=0.1), 0.0
    for gap, waiting in ends:
        now += gap
        turns.end(now, seconds=gap, waiting=waiting)
        assert 1 <= turns.retry_seconds(waiting) <= MAX_RETRY_SECONDS


@pytest.mark.parametrize(("gap", "seconds"), [(0.001, 1), (1.5, 8)])
def test_a_queue_that_moves_slowly_asks_for_longer(gap, seconds):
    turns, now = LoopShare(share=0.1), 0.0
    for _ in range(40):
        now += gap
        turns.end(now, seconds=gap, waiting=5)
    assert turns.retry_seconds(5) == seconds
