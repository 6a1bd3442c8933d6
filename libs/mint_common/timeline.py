"""Timeline of a policy or a tenant: entries of several services merged into one list, newest first.

Order: by time in microseconds, then by id. An entry's place names both, so that places compare as texts and a
list continues below one; each service orders and continues its own entries in the same way.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from mint_common.catalog_requests import Limit

TimelineKind = Literal[
    "alias.moved",
    "alias.removed",
    "revision.published",
    "revision.rejected",
    "evaluation.recorded",
    "job.submitted",
    "job.finished",
]
"""Kinds of entries, named like the events."""
_DIGITS = 16
"""Digits of a time in a place, in microseconds since the epoch."""
_PLACE = rf"^[0-9]{{{_DIGITS}}}-[!-~]+$"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened to a policy at a time, in seconds since the epoch.

    ``policy`` is its name: a removed policy has its id, and its jobs have the name of their submission.
    ``subject``: the alias, the suite and metric, the job, or the code of a refusal. ``revision``: the number
    that was moved to, published, scored, or that a job ended with. ``value``: the score. ``actor``: who did
    it. ``reason``: why; of a finished job its state, and its fault.
    """

    place: str
    at: float
    kind: TimelineKind
    subject: str
    policy_id: str = ""
    policy: str = ""
    revision: int | None = None
    value: float | None = None
    actor: str = ""
    reason: str = ""


class TimelineQuery(BaseModel):
    """A page of a timeline; ``before`` is the place of the last entry of the previous page."""

    limit: Limit = 100
    before: Annotated[str | None, Field(max_length=300, pattern=_PLACE)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePlace:
    """A place: ``microseconds`` since the epoch, and the entry's id."""

    microseconds: int
    entry_id: str


END = TimelinePlace(microseconds=10**_DIGITS - 1, entry_id="")
"""Place above every entry."""


def place_text(microseconds: int, entry_id: str) -> str:
    """Return a place as a text; places compare as their texts do."""
    return f"{microseconds:0{_DIGITS}d}-{entry_id}"


def read_place(text: str | None) -> TimelinePlace:
    """Return the place in a text that a `TimelineQuery` accepts, `END` for None."""
    if text is None:
        return END
    return TimelinePlace(microseconds=int(text[:_DIGITS]), entry_id=text[_DIGITS + 1 :])


def merge_timelines(pages: Iterable[Sequence[TimelineEntry]], *, limit: int) -> list[TimelineEntry]:
    """Return the newest entries of pages that begin at one place and have ``limit`` entries or their end."""
    return list(islice(heapq.merge(*pages, key=lambda entry: entry.place, reverse=True), limit))
