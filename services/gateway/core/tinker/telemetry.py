"""Telemetry of clients: errors are counted by kind, the rest is discarded."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import msgspec

MAX_EVENTS = 1000
"""Maximum events of one report; the official client sends 100."""
MAX_KINDS = 8
MAX_KIND = 100
OTHERS = "others"
"""Label of all further kinds, which bounds the log line of a report."""


class TelemetryEvent(msgspec.Struct, frozen=True):
    """The fields read of an event: the others may contain prompts, paths or keys."""

    event: str = ""
    event_name: str = ""
    error_type: str = ""
    severity: str = ""


class TelemetryBody(msgspec.Struct, frozen=True):
    """Events of a client."""

    events: Annotated[list[TelemetryEvent], msgspec.Meta(max_length=MAX_EVENTS)]
    sdk_version: str = ""


def errors_by_kind(events: Iterable[TelemetryEvent]) -> dict[str, int]:
    """Return how many errors of each kind are among events, under `MAX_KINDS` names and `OTHERS`."""
    kinds = Counter[str]()
    for event in events:
        if event.error_type or event.severity in {"ERROR", "CRITICAL"}:
            kind = (event.error_type or event.event_name or event.event)[:MAX_KIND]
            kinds[kind if kind in kinds or len(kinds) < MAX_KINDS else OTHERS] += 1
    return dict(kinds)
