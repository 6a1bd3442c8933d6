"""`mint events`: what happens, as it happens."""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import api_command
from mint_client.core.event_lines import EventFilter, check_types, event_line
from mint_common.errors import Unavailable
from mint_common.new_folder import replace_file

RETRY_SECONDS = 0.5
"""Delay before a lost event stream is opened again."""


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
