"""The check of an alias's history finds what no order explains."""

import pytest

from tests.fleet.alias_history import Heard, Row, contradictions

HISTORY = [Row(sequence=1, number=1, reason="a"), Row(sequence=2, number=2, reason="b")]


def move(begun: float, ended: float, sequence: int | None, number: int, reason: str) -> Heard:
    return Heard(begun=begun, ended=ended, sequence=sequence, number=number, reason=reason)


def read(begun: float, ended: float, sequence: int, number: int) -> Heard:
    return Heard(begun=begun, ended=ended, sequence=sequence, number=number)


MOVES = [move(0, 1, 1, 1, "a"), move(2, 3, 2, 2, "b")]


def test_reads_beside_a_move_may_see_either_side_of_it() -> None:
    heard = [*MOVES, read(2.1, 2.2, 1, 1), read(2.3, 2.9, 2, 2), read(4, 5, 2, 2)]
    assert not list(contradictions(heard, HISTORY))


def test_a_move_that_was_never_answered_may_have_happened_or_not() -> None:
    assert not list(contradictions([MOVES[0], move(2, 3, None, 2, "b")], HISTORY))
    assert not list(contradictions([*MOVES, move(4, 5, None, 1, "c")], HISTORY))


@pytest.mark.parametrize(
    ("heard", "history", "problem"),
    [
        ([*MOVES, read(4, 5, 1, 1)], HISTORY, "came after the answer of sequence 2"),
        (
            [*MOVES, read(2.1, 2.2, 2, 2), read(2.3, 2.4, 1, 1)],
            HISTORY,
            "came after the answer of sequence 2",
        ),
        ([*MOVES, read(4, 5, 2, 1)], HISTORY, "is not what the history has"),
        ([*MOVES, move(4, 5, 3, 1, "c")], HISTORY, "is not what the history has: None"),
        (MOVES[:1], HISTORY, "b was asked by no client"),
        (MOVES, [*HISTORY, Row(sequence=3, number=2, reason="b")], "b happened 2 times"),
        (MOVES, [HISTORY[0], Row(sequence=3, number=2, reason="b")], "the history has gaps"),
    ],
)
def test_what_no_order_explains_is_named(heard: list[Heard], history: list[Row], problem: str) -> None:
    assert problem in "\n".join(contradictions(heard, history))
