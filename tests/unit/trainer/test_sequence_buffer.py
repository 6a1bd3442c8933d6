"""The order of one policy's operations, under any order of arrival."""

import random

from hypothesis import given
from hypothesis import strategies as st

from mint_common.training import LAST_SEQ, UNNUMBERED
from services.trainer.core.sequence_buffer import MAX_SKIPPED, SequenceBuffer

HOLD = 3.0
seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 30), seeds)
def test_without_gaps_the_release_is_in_order_whatever_the_arrival(count: int, seed: int) -> None:
    arrivals = list(range(count))
    random.Random(seed).shuffle(arrivals)
    buffer, released = SequenceBuffer(), []
    for now, seq in enumerate(arrivals):
        # Nothing waits as long as the hold here: only order decides.
        buffer = buffer.arrive(seq, now=now * HOLD / (2 * count))
        due, buffer = buffer.release(now=now * HOLD / (2 * count), hold_seconds=HOLD)
        released += due
    assert released == list(range(count))
    assert buffer == SequenceBuffer(next_seq=count)


@given(st.sets(st.integers(0, 40), min_size=1), seeds)
def test_everything_is_released_once_and_waits_no_longer_than_the_hold(present: set[int], seed: int) -> None:
    rng = random.Random(seed)
    buffer, now, arrived, released = SequenceBuffer(), 0.0, {}, []
    arrivals = sorted(present, key=lambda _: rng.random())
    while arrivals or buffer.waiting:
        if arrivals and rng.random() < 0.5:
            seq = arrivals.pop()
            buffer = buffer.arrive(seq, now=now)
            arrived[seq] = now
        due, buffer = buffer.release(now=now, hold_seconds=HOLD)
        released += due
        assert all(now - arrived[seq] < HOLD for seq in buffer.waiting)
        moment = buffer.due(hold_seconds=HOLD)
        assert (moment is None) == (not buffer.waiting)
        assert moment is None or moment > now
        now += rng.choice((0.1, 1.0, HOLD))
    assert sorted(released) == sorted(present)


def test_a_gap_is_held_until_the_oldest_behind_it_has_waited() -> None:
    buffer = SequenceBuffer(next_seq=1).arrive(3, now=0.0).arrive(2, now=2.0)
    assert buffer.release(now=2.9, hold_seconds=HOLD)[0] == []
    assert buffer.due(hold_seconds=HOLD) == 3.0
    assert buffer.release(now=3.0, hold_seconds=HOLD) == ([2, 3], SequenceBuffer(next_seq=4))


def test_what_comes_after_its_gap_was_released_is_released_at_once() -> None:
    buffer = SequenceBuffer(next_seq=4).arrive(1, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD) == ([1], SequenceBuffer(next_seq=4))


def test_nothing_waits_for_a_number_that_was_skipped() -> None:
    buffer = SequenceBuffer(next_seq=1).arrive(2, now=0.0).skip(1)
    assert buffer.release(now=0.0, hold_seconds=HOLD) == ([2], SequenceBuffer(next_seq=3))
    # Skipped while one before it is still on its way.
    buffer = SequenceBuffer(next_seq=1).skip(2).arrive(3, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD)[0] == []
    assert buffer.arrive(1, now=1.0).release(now=1.0, hold_seconds=HOLD) == (
        [1, 3],
        SequenceBuffer(next_seq=4),
    )


def test_a_skipped_number_that_comes_all_the_same_is_released_in_its_place() -> None:
    buffer = SequenceBuffer(next_seq=1).skip(2).arrive(2, now=0.0).arrive(1, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD) == ([1, 2], SequenceBuffer(next_seq=3))
    assert SequenceBuffer(next_seq=1).skip(1).arrive(1, now=0.0).release(now=0.0, hold_seconds=HOLD)[0] == [1]


def test_skipping_is_bounded_and_forgets_what_is_past() -> None:
    assert SequenceBuffer(next_seq=5).skip(4) == SequenceBuffer(next_seq=5)
    buffer = SequenceBuffer()
    for seq in range(1, 2 * MAX_SKIPPED):
        buffer = buffer.skip(seq)
    assert len(buffer.skipped) == MAX_SKIPPED
    assert buffer.arrive(0, now=0.0).release(now=0.0, hold_seconds=HOLD)[1] == SequenceBuffer(
        next_seq=MAX_SKIPPED + 1
    )


def test_the_last_number_waits_for_what_has_arrived_alone() -> None:
    buffer = SequenceBuffer(next_seq=4).arrive(LAST_SEQ, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD)[0] == [LAST_SEQ]
    buffer = SequenceBuffer(next_seq=4).arrive(LAST_SEQ, now=0.0).arrive(6, now=1.0)
    assert buffer.release(now=1.0, hold_seconds=HOLD)[0] == []
    assert buffer.release(now=HOLD, hold_seconds=HOLD)[0] == [6, LAST_SEQ]


def test_without_a_number_comes_behind_what_has_arrived_and_before_what_has_not() -> None:
    first, second = UNNUMBERED + 7, UNNUMBERED + 3
    buffer = SequenceBuffer(next_seq=1).arrive(1, now=0.0).arrive(first, now=0.0).arrive(2, now=0.0)
    buffer = buffer.arrive(second, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD) == ([1, first, 2, second], SequenceBuffer(next_seq=3))
    for numbers in ((first, second), (second, first)):  # whatever their numbers are
        buffer = (
            SequenceBuffer(next_seq=1)
            .arrive(1, now=0.0)
            .arrive(numbers[0], now=0.0)
            .arrive(numbers[1], now=0.0)
        )
        assert buffer.release(now=0.0, hold_seconds=HOLD)[0] == [1, *numbers]
    buffer = SequenceBuffer(next_seq=3).arrive(first, now=0.0)
    assert buffer.release(now=0.0, hold_seconds=HOLD) == ([first], SequenceBuffer(next_seq=3))


def test_without_a_number_waits_behind_a_gap_as_what_it_comes_after_does() -> None:
    number = UNNUMBERED + 1
    buffer = SequenceBuffer(next_seq=1).arrive(2, now=0.0).arrive(number, now=0.0)
    assert buffer.release(now=1.0, hold_seconds=HOLD) == ([], buffer)
    assert buffer.release(now=HOLD, hold_seconds=HOLD) == ([2, number], SequenceBuffer(next_seq=3))
    assert buffer.arrive(1, now=1.0).release(now=1.0, hold_seconds=HOLD)[0] == [1, 2, number]
