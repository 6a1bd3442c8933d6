"""The checker finds what is wrong with a history, and nothing with a right one."""

import itertools
import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.integration.registry.linearizability import Operation, State, linearize, step


def operation(kind: str, begun: float, ended: float, **answer: object) -> Operation:
    return Operation(client=0, kind=kind, begun=begun, ended=ended, **answer)


FIRST = operation("move", 0, 1, target=1, sequence=1, number=1)
SECOND = operation("move", 2, 3, target=2, sequence=2, number=2)


def test_moves_one_after_the_other_are_explained() -> None:
    read = operation("read", 4, 5, sequence=2, number=2)
    assert linearize([read, SECOND, FIRST]) == [FIRST, SECOND, read]


def test_a_stale_read_is_found() -> None:
    assert linearize([FIRST, SECOND, operation("read", 4, 5, sequence=1, number=1)]) is None


def test_a_read_during_a_move_may_see_either() -> None:
    for sequence in (1, 2):
        read = operation("read", 2.1, 2.9, sequence=sequence, number=sequence)
        assert linearize([FIRST, SECOND, read]) is not None


def test_a_lost_move_is_found() -> None:
    lost = replace(SECOND, sequence=1)
    assert linearize([FIRST, lost]) is None


def test_two_winners_of_one_expectation_are_found() -> None:
    one = operation("move", 2, 9, target=2, expected=1, sequence=2, number=2)
    other = operation("move", 2, 9, target=3, expected=1, sequence=2, number=3)
    assert linearize([FIRST, one, other]) is None
    lost = replace(other, sequence=0, number=0, found=2)
    assert linearize([FIRST, one, lost]) is not None
    assert linearize([FIRST, one, replace(lost, found=1)]) is None


def test_a_rollback_goes_below_and_not_back() -> None:
    back = operation("rollback", 4, 5, sequence=3, number=1)
    assert linearize([FIRST, SECOND, back]) is not None
    assert linearize([FIRST, SECOND, replace(back, number=2)]) is None
    bottom = operation("rollback", 6, 7, is_at_bottom=True)
    assert linearize([FIRST, SECOND, back, bottom]) is not None
    assert linearize([FIRST, SECOND, replace(bottom, begun=3.5, ended=3.6), back]) is None


@given(seed=st.integers(0, 2**32), spread=st.floats(0.1, 8.0))
def test_whatever_a_real_order_answers_is_explained(seed: int, spread: float) -> None:
    """Operations happen at a moment, begin before it and end after it: that is what is to be found again."""
    drawn = random.Random(seed)
    state: State = ()
    operations = []
    for moment in itertools.count(1):
        if moment > 30:
            break
        kind = drawn.choice(["move", "rollback", "read"])
        asked = operation(
            kind,
            moment - drawn.random() * spread,
            moment + drawn.random() * spread,
            target=drawn.randint(1, 3),
            expected=drawn.choice([None, 0, 1, 2]) if kind == "move" else None,
        )
        answered = _answer(state, asked)
        after = step(state, answered)
        assert after is not None
        state = after
        operations.append(answered)
    assert linearize(operations) is not None


def _answer(state: State, asked: Operation) -> Operation:
    current = state[-1].number if state else 0
    if asked.kind == "read" or (asked.kind == "rollback" and not state):
        return replace(asked, kind="read", sequence=len(state), number=current)
    if asked.expected not in (None, current):
        return replace(asked, found=current)
    if asked.kind == "rollback":
        below = state[-1].below
        if below == 0:
            return replace(asked, is_at_bottom=True)
        return replace(asked, sequence=len(state) + 1, number=state[below - 1].number)
    grows = asked.target != current
    return replace(asked, sequence=len(state) + grows, number=asked.target)
