"""Is there one order of concurrent operations on an alias, true to time, that explains every answer?

The search is that of Wing and Gong with Lowe's memory of what was tried (as in Porcupine): the next operation
of the order is one that had begun before any other had ended; where no answer fits, a choice is undone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["move", "rollback", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a client asked, and was answered: where the alias is after it, or what was found instead.

    ``sequence`` and ``number`` are the answer (0: there is no alias); a refused compare-and-set has only
    ``found``, the number that the alias had; a rollback with nothing to go back to is ``is_at_bottom``.
    """

    client: int
    kind: Kind
    begun: float
    ended: float
    target: int = 0
    expected: int | None = None
    sequence: int = 0
    number: int = 0
    found: int | None = None
    is_at_bottom: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the history: the revision's number, and the row that a rollback goes to."""

    number: int
    below: int


State = tuple[Entry, ...]
"""The history; its length is the sequence of the newest row."""


def step(state: State, operation: Operation) -> State | None:
    """Return the state after an operation, or None when its answer does not fit this state."""
    current = state[-1].number if state else 0
    if operation.kind == "read":
        return state if (operation.sequence, operation.number) == (len(state), current) else None
    if operation.found is not None:
        fits = operation.found == current and operation.found != operation.expected
        return state if fits else None
    if operation.expected not in (None, current):
        return None
    if operation.is_at_bottom:
        return state if state and state[-1].below == 0 else None
    if operation.kind == "move":
        after = state if operation.target == current else (*state, Entry(operation.target, len(state)))
    else:
        below = state[-1].below if state else 0
        if below == 0:
            return None
        after = (*state, state[below - 1])
    return after if (operation.sequence, operation.number) == (len(after), after[-1].number) else None


def linearize(operations: Sequence[Operation]) -> list[Operation] | None:
    """Return an order that explains every answer, or None."""
    waiting = sorted(operations, key=lambda operation: operation.begun)
    chosen: list[int] = []
    states: list[State] = [()]
    tried: set[tuple[frozenset[int], State]] = set()
    start = 0
    while len(chosen) < len(waiting):
        place = _next(waiting, frozenset(chosen), states[-1], tried, start)
        if place is not None:
            chosen.append(place)
            states.append(_fitting(states[-1], waiting[place]))
            start = 0
        elif chosen:
            start = chosen.pop() + 1
            states.pop()
        else:
            return None
    return [waiting[place] for place in chosen]


def _next(
    waiting: Sequence[Operation],
    done: frozenset[int],
    state: State,
    tried: set[tuple[frozenset[int], State]],
    start: int,
) -> int | None:
    """Return the first operation from a place on that may come now and was not tried here before."""
    left = [place for place in range(len(waiting)) if place not in done]
    bound = min(waiting[place].ended for place in left)
    for place in left:
        if waiting[place].begun > bound:
            return None
        after = step(state, waiting[place]) if place >= start else None
        if after is not None and (done | {place}, after) not in tried:
            tried.add((done | {place}, after))
            return place
    return None


def _fitting(state: State, operation: Operation) -> State:
    after = step(state, operation)
    assert after is not None, "it was looked at just now"
    return after
