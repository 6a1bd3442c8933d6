"""What the catalog's commands share: which gateway, and tables for people or JSON for programs."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from mint_common.errors import SettingInvalid
from services.standalone.adapters.public_api import Json, PublicApi
from services.standalone.commands.options import FolderOption, state_folder
from services.standalone.commands.terminal import wide_console
from services.standalone.core.catalog_tables import Column, cells
from services.standalone.core.refusals import AddressIncompleteError, StackNotRunningError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="A policy's name or id.")]
RevisionArgument = Annotated[str, typer.Argument(metavar="REV", help="A revision's number or digest.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="An alias of the policy.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays in the history.")]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Rows at most.")]
AfterOption = Annotated[
    str | None, typer.Option("--after", metavar="LAST", help="What the page before ended with.")
]


@contextmanager
def public_api(folder: FolderOption) -> Iterator[PublicApi]:
    """Open MINT_URL with MINT_API_KEY where both are set, else the stack of the state folder."""
    url, key = os.environ.get("MINT_URL"), os.environ.get("MINT_API_KEY")
    if bool(url) != bool(key):
        raise AddressIncompleteError(missing="MINT_API_KEY" if url else "MINT_URL")
    if url and not url.startswith(("http://", "https://")):
        raise SettingInvalid(name="MINT_URL", problem=f"must begin with http:// or https://, got {url!r}")
    if key and not (key.isascii() and key.isprintable()):
        raise SettingInvalid(name="MINT_API_KEY", problem="is no API key: it has other than ASCII characters")
    if not (url and key):
        state = state_folder(folder)
        run = state.read_run() if state.running_pid() is not None else None
        if run is None:
            raise StackNotRunningError(folder=str(state.root))
        url, key = run.gateway_url, state.secrets().api_key
    with PublicApi(url, key) as api:
        yield api


def show(answer: Json, columns: Sequence[Column], *, as_json: bool, nothing: str = "nothing yet") -> None:
    """Print one row or many."""
    rows: list[Mapping[str, object]] = answer if isinstance(answer, list) else [answer]
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif not rows:
        typer.echo(nothing)
    else:
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column.title, no_wrap=True)
        for row in rows:
            table.add_row(*cells(row, columns))
        wide_console().print(table)


def group(help_text: str, *commands: Callable[..., None]) -> typer.Typer:
    """Return a command group of some functions, each named after what stands before its underscore."""
    app = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    for command in commands:
        app.command(name=command.__name__.partition("_")[0])(command)
    return app


def number_or_digest(revision: str) -> int | str:
    """Return a revision as the API takes it."""
    return int(revision) if revision.isdecimal() else revision
