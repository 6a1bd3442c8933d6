"""Filter events, and format an event in one line."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mint_common.errors import NotFound
from mint_common.events import EVENT_TYPES

SHOWN = ("alias", "step", "tier", "engine_id", "suite", "metric", "value", "outcome", "job_id", "reason")
"""Fields that a line tells, in this order; a policy and a revision come before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Filter of a stream. ``types`` are types or their first halves; empty fields do not filter."""

    types: Collection[str] = ()
    policy_id: str = ""
    job_id: str = ""

    def wants(self, event: Mapping[str, Any]) -> bool:  # the gateway's JSON
        """Say whether an event passes."""
        kind, data = event["type"], event["data"]
        is_type = not self.types or kind in self.types or kind.partition(".")[0] in self.types
        is_policy = self.policy_id in ("", data.get("policy_id"))
        return is_type and is_policy and self.job_id in ("", data.get("job_id"))


def check_types(types: Collection[str]) -> None:
    """Raise NotFound, with suggestions, for a text that is neither a type of event nor its noun."""
    whole = {event_type.type for event_type in EVENT_TYPES}
    known = sorted(whole | {name.partition(".")[0] for name in whole})
    for name in types:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise NotFound(kind="type of event", name=name, near=", ".join(near))


def event_line(event: Mapping[str, Any], policy_name: Callable[[str], str]) -> str:  # the gateway's JSON
    """Return an event in one line: time (UTC), type, revision, and its other fields."""
    data = event["data"]
    when = datetime.fromtimestamp(event["time"], UTC).strftime("%H:%M:%S")
    told = [f"{name} {data[name]}" for name in SHOWN if data.get(name) not in (None, "")]
    subject = _subject(data, policy_name)
    return "  ".join([when, f"{event['type']:<20}", *([subject] if subject else []), *told])


def _subject(data: Mapping[str, Any], policy_name: Callable[[str], str]) -> str:
    if not data.get("policy_id"):
        return ""
    revision = data.get("revision")
    number = revision.get("number") if isinstance(revision, Mapping) else None
    return policy_name(data["policy_id"]) + (f"@{number}" if number else "")
