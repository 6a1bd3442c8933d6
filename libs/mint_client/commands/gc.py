"""`mint gc`: remove unused data."""

import json
from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi
from mint_client.commands.api import api_command
from mint_client.commands.options import JsonOption
from mint_client.core.columns import COLLECTION
from mint_client.views.terminal import print_json, print_rows

_AT_ONCE = 200


@api_command
def gc(
    api: PublicApi,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--remove", help="Only list the items, or remove them.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Retire revisions outside the retention of their policy, and remove stored bytes that are no longer
    used.

    Needs an operator's key. Revisions that an alias, an engine or a training session uses are never removed.
    A dry run lists the first 1000 items; a removal continues until nothing is left, and may be interrupted
    and repeated.

    Example: mint gc --dry-run
    """
    if dry_run:
        report = api.post("/gc", {"dry_run": True, "limit": 1000}, is_long=True)
        if as_json:
            print_json(report["items"])
        else:
            print_rows(report["items"], COLLECTION, nothing="nothing to collect")
        if report["more"] and not as_json:
            typer.echo("and more")
        return
    more = True
    while more:
        report = api.post("/gc", {"dry_run": False, "limit": _AT_ONCE}, is_long=True)
        more = report["more"]
        for item in report["items"]:
            typer.echo(json.dumps(item) if as_json else f"{item['kind']} {item['what']}")
