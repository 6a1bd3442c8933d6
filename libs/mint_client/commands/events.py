"""`mint events`: what happens, as it happens."""

import difflib
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import api_command
from mint_common.errors import NotFound, Unavailable
from mint_common.events import TENANTS_EVENT_TYPES
from mint_common.new_folder import replace_file

SHOWN = ("alias", "step", "tier", "engine_id", "suite", "metric", "value", "outcome", "job_id", "reason")
"""Fields that a line tells, in this order; a policy and a revision come before them."""

RETRY_SECONDS = 0.5
"""Delay before a lost event stream is opened again."""


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
    whole = {event_type.type for event_type in TENANTS_EVENT_TYPES}
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


@api_command
def events(
    api: PublicApi,
    *,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Only events of this type, or of all types of a noun (job); repeatable.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="Only events of this policy.")] = "",
    job: Annotated[str, typer.Option(metavar="JOB", help="Only events of this job.")] = "",
    brief: Annotated[
        bool, typer.Option("--brief", help="Print a short readable line per event instead of JSON.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Start after this place in the event log instead of now."),
    ] = None,
    place_file: Annotated[
        Path | None,
        typer.Option("--place", metavar="FILE", help="Store the place in FILE; the next run resumes there."),
    ] = None,
) -> None:
    """Print the tenant's events as they happen, one JSON envelope per line, until Ctrl-C.

    After a lost connection the stream resumes at the same place: each event is printed exactly once.

    Example: mint events --brief --policy counter --type job --type revision.published
    """
    check_types(types or ())
    policy_id = api.get(path_of("policies", policy))["policy_id"] if policy else ""
    wanted = EventFilter(types=types or (), policy_id=policy_id, job_id=job)
    name_of = _policy_names(api)

    def tell(envelope: str) -> None:
        event = json.loads(envelope)
        if wanted.wants(event):
            typer.echo(event_line(event, name_of) if brief else envelope)
            sys.stdout.flush()

    if after is None and place_file is not None and place_file.exists():
        after = place_file.read_text().strip() or None
    _follow(api, after, place_file, tell)


def _follow(api: PublicApi, place: str | None, place_file: Path | None, tell: Callable[[str], None]) -> None:
    while True:
        is_connected = False
        try:
            for reached, envelope in api.events(after=place):
                place, is_connected = reached, True
                if envelope:
                    tell(envelope)
                if place_file is not None:
                    replace_file(place_file, place.encode())
        except Unavailable as error:
            if place is None and not is_connected:
                raise
            typer.echo(f"mint: {error}; trying again", err=True)
        time.sleep(RETRY_SECONDS)


def _policy_names(api: PublicApi) -> Callable[[str], str]:
    @cache
    def name_of(policy_id: str) -> str:
        return str(api.get(path_of("policies", policy_id))["name"])

    return name_of
