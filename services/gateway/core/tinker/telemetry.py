"""What clients report about themselves: errors are counted by kind, the rest is not kept."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import msgspec

MOST_EVENTS = 1000
"""Of one report; the official client sends 100."""
MOST_KINDS = 8
MOST_KIND = 100
OTHERS = "others"
"""What further kinds are counted as: a report must not make a log line of any size."""


class TelemetryEvent(msgspec.Struct, frozen=True):
    """What is read of an event: everything else may hold prompts, paths or keys."""

    event: str = ""
    event_name: str = ""
    error_type: str = ""
    severity: str = ""


class TelemetryBody(msgspec.Struct, frozen=True):
    """Events of a client."""

    events: Annotated[list[TelemetryEvent], msgspec.Meta(max_length=MOST_EVENTS)]
    sdk_version: str = ""


def errors_by_kind(events: Iterable[TelemetryEvent]) -> dict[str, int]:
    """Return how many errors of each kind are among events, under `MOST_KINDS` names and `OTHERS`."""
    kinds = Counter[str]()
    for event in events:
        if event.error_type or event.severity in {"ERROR", "CRITICAL"}:
            kind = (event.error_type or event.event_name or event.event)[:MOST_KIND]
            kinds[kind if kind in kinds or len(kinds) < MOST_KINDS else OTHERS] += 1
    return dict(kinds)
