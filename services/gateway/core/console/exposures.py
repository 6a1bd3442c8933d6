"""Which aliases answered with a revision, and from when until when."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A time in which an alias pointed at a revision; ``until`` is None while it does.

    Times are seconds since the epoch. ``actor`` and ``reason`` are of the move that began it.
    """

    alias: str
    since: float
    until: float | None
    actor: str
    reason: str


def exposures_of(alias: str, moves: Sequence[Mapping[str, Any]], number: int) -> Iterator[Exposure]:
    """Yield the times in which an alias pointed at a revision, newest first, from its moves, newest first."""
    until = None
    for move in moves:
        if move["number"] == number and not move["removed"]:
            yield Exposure(
                alias=alias, since=move["at"], until=until, actor=move["actor"], reason=move["reason"]
            )
        until = move["at"]


def step_of(job: Mapping[str, Any], number: int) -> int | None:
    """Return the step of a job that made a revision, None if none did."""
    made = (step["step"] for step in job["steps"] if (step["revision"] or {}).get("number") == number)
    return next(made, None)
