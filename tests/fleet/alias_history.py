"""Does one order of an alias's moves explain what every client was answered, whatever was lost?

The registry numbers moves (`sequence`), and each carries its own reason. So the order is known, and what is
left to check is that it is true to time, and that every acknowledged move is in it once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A move or a read: when it was asked and answered, in seconds, and the answer's sequence and revision.

    ``reason`` is a move's own. ``sequence`` is None for a move whose answer never came: it may have happened.
    """

    begun: float
    ended: float
    sequence: int | None
    number: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the alias's history."""

    sequence: int
    number: int
    reason: str


def contradictions(heard: Sequence[Heard], history: Sequence[Row]) -> Iterator[str]:
    """Yield what no order of the moves explains."""
    rows = {row.sequence: row for row in history}
    if sorted(rows) != list(range(1, len(history) + 1)):
        yield f"the history has gaps: {sorted(rows)}"
    asked = {one.reason for one in heard if one.reason}
    counts = Counter(row.reason for row in history)
    yield from (f"{reason} happened {count} times" for reason, count in counts.items() if count > 1)
    yield from (f"{reason} was asked by no client" for reason in counts.keys() - asked)
    answered = [one for one in heard if one.sequence is not None]
    for one in answered:
        row = rows.get(one.sequence or 0)
        if row is None or row.number != one.number or (one.reason and row.reason != one.reason):
            yield f"{one} is not what the history has: {row}"
    newest, ended = 0, sorted(answered, key=lambda one: one.ended)
    place = 0
    for one in sorted(answered, key=lambda one: one.begun):
        while ended[place].ended < one.begun:
            newest = max(newest, ended[place].sequence or 0)
            place += 1
        if (one.sequence or 0) < newest + bool(one.reason):
            yield f"{one} came after the answer of sequence {newest}"
