"""Shared parts of commands over the public API: choice of gateway, and output as tables or JSON."""

import inspect
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from mint_client.adapters.local_stack import stack_at
from mint_client.adapters.public_api import Json, PublicApi
from mint_client.adapters.stack_folder import StackFolder
from mint_client.commands.names import with_near_names
from mint_client.commands.options import JsonOption, StackOption, stack_folder
from mint_client.commands.spelling import (
    EXTRA_ARGUMENTS,
    MovedRevisionArgument,
    NamedRevisionArgument,
    join_name,
)
from mint_client.core.columns import Column
from mint_client.core.refusals import AddressIncompleteError, StackNotRunningError
from mint_client.core.tables import Row, page_hint
from mint_client.views.terminal import print_json, print_rows
from mint_common.errors import NotFound, SettingInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The gateway's answer, and its form for people.

    ``rows`` is None when the answer itself is the row or the rows; ``nothing`` replaces an empty table;
    ``page_by`` is a row's cursor of the next page, by default the first column; ``notes`` follow the table,
    on stderr.
    """

    answer: Json
    columns: Sequence[Column]
    rows: Sequence[Row] | None = None
    nothing: str = "nothing yet"
    page_by: str = ""
    notes: Sequence[str] = ()

    def shown(self) -> Sequence[Row]:
        """Return the rows of the table."""
        if self.rows is not None:
            return self.rows
        return self.answer if isinstance(self.answer, list) else [self.answer]


Command = Callable[..., Listing | str | None]
_CONTEXT = "context"


def api_command(function: Command) -> Callable[..., None]:
    """Return a command that passes the public API to a function and prints its result.

    It has the function's own options and --dir, and --json where a Listing is returned.
    """
    own = inspect.signature(function, eval_str=True)
    _, *parameters = own.parameters.values()
    is_listing = own.return_annotation is Listing
    positional = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    named = [each for each in parameters if each.annotation in {NamedRevisionArgument, MovedRevisionArgument}]

    def run(**values: Any) -> None:  # what typer read
        folder = values.pop("folder")
        if named:
            name, *others = (values[each] for each in positional)
            is_last = named[0].annotation is MovedRevisionArgument
            joined = join_name(name, others, values.pop(_CONTEXT).args, is_last=is_last)
            values |= zip(positional, joined, strict=True)
        as_json = is_listing and values.pop("as_json")
        with open_api(folder) as api:
            try:
                answer = function(api, **values)
            except NotFound as error:
                raise with_near_names(error, api, values) from error
        if isinstance(answer, Listing):
            _print(answer, values, as_json=as_json)
        elif answer is not None:
            typer.echo(answer)

    if named:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(_CONTEXT, kind, annotation=typer.Context))
    if is_listing:
        parameters.append(_option("as_json", JsonOption, default=False))
    parameters.append(_option("folder", StackOption, default=None))
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]  # inspect's own
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option(name: str, annotation: object, *, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def group(help_text: str, *commands: Command) -> typer.Typer:
    """Return a command group of some functions, each named by the part before its underscore."""
    app = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    for command in commands:
        add_command(app, command)
    return app


def add_command(app: typer.Typer, command: Command, summary: str | None = None) -> None:
    """Add a function to a group, named by the part before its underscore."""
    run = api_command(command)
    settings = EXTRA_ARGUMENTS if _CONTEXT in inspect.signature(run).parameters else None
    name = command.__name__.partition("_")[0]
    app.command(name=name, short_help=summary, context_settings=settings)(run)


@contextmanager
def open_api(folder: Path | None) -> Iterator[PublicApi]:
    """Open the stack of --dir, else that of MINT_URL and MINT_API_KEY, else that of the default folder."""
    address = None if folder else address_of(os.environ)
    with _running(folder) if address is None else PublicApi(*address) as api:
        yield api


def local_stack(folder: Path | None) -> StackFolder | None:
    """Return the state folder of the stack that `open_api` opens; None: it is on another machine."""
    address = None if folder else address_of(os.environ)
    default = stack_folder(folder)
    return default if address is None else stack_at(address[0], default.root)


def address_of(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return MINT_URL and MINT_API_KEY, or None. Raises AddressIncompleteError and SettingInvalid."""
    url, key = environ.get("MINT_URL"), environ.get("MINT_API_KEY")
    if bool(url) != bool(key):
        raise AddressIncompleteError(missing="MINT_API_KEY" if url else "MINT_URL")
    if url and not url.startswith(("http://", "https://")):
        raise SettingInvalid(name="MINT_URL", problem=f"must begin with http:// or https://, got {url!r}")
    if url and url.rstrip("/").endswith("/v1"):
        raise SettingInvalid(name="MINT_URL", problem=f"is the gateway's address without /v1, got {url!r}")
    if key and not (key.isascii() and key.isprintable()):
        raise SettingInvalid(name="MINT_API_KEY", problem="is no API key: it has other than ASCII characters")
    return (url, key) if url and key else None


def _running(folder: Path | None) -> PublicApi:
    state = stack_folder(folder)
    run = state.read_run()
    if run is None:
        raise StackNotRunningError(folder=str(state.root))
    status = f"mint status --dir {shlex.quote(str(state.root))}"
    return PublicApi(
        run.gateway_url,
        state.api_key(),
        key_in_shell=f"$(cat {shlex.quote(str(state.api_key_file))})",
        when_away=f"It may still be starting: `{status}` shows its parts.",
    )


def _print(answer: Listing, values: Mapping[str, object], *, as_json: bool) -> None:
    """Print an answer; ``values`` are the command's own, which say how much of a list was wanted."""
    if as_json:
        print_json(answer.answer)
        return
    rows = answer.shown()
    print_rows(rows, answer.columns, nothing=answer.nothing)
    hint = page_hint(rows, values, page_by=answer.page_by or answer.columns[0].path)
    for note in filter(None, (hint, *answer.notes)):
        typer.echo(note, err=True)
