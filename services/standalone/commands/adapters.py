"""`mint adapters`: where revisions are on the engines; `mint top`: the same, live."""

import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from mint_common.errors import Unavailable
from services.standalone.adapters.gateway import GatewayClient
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption, state_folder
from services.standalone.commands.terminal import wide_console
from services.standalone.core.refusals import StackNotRunningError
from services.standalone.core.tables import (
    ADAPTER_COLUMNS,
    ENGINE_COLUMNS,
    AdapterNow,
    adapter_cells,
    engine_cells,
    nearest_first,
)

MOST_ROWS = 40

RevisionArgument = Annotated[
    str,
    typer.Argument(
        metavar="POLICY@REV",
        help="A revision: its policy's name, @, then its number, its digest or an alias.",
    ),
]

adapters_app = typer.Typer(
    help="Where your revisions are on the engines: in a slot, in host memory, on a disk, in the queue.\n\n"
    "Without a command: list them.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


class _Verb(StrEnum):
    PIN = "pin"
    UNPIN = "unpin"
    PREWARM = "prewarm"
    EVICT = "evict"


@adapters_app.callback()
def list_adapters(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List where your revisions are."""
    if context.invoked_subcommand is not None:
        return
    with _gateway(folder) as gateway:
        _show(gateway.adapters(), as_json=as_json)


@adapters_app.command(short_help="Keep a revision from eviction.")
def pin(revision: RevisionArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Keep a revision on the engines that hold it, whatever else is asked for."""
    _change(revision, _Verb.PIN, folder)


@adapters_app.command(short_help="Allow its eviction again.")
def unpin(revision: RevisionArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Allow a revision's eviction again."""
    _change(revision, _Verb.UNPIN, folder)


@adapters_app.command(short_help="Load a revision before its first request.")
def prewarm(revision: RevisionArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Load a revision where its requests will go; returns when it is ready."""
    _change(revision, _Verb.PREWARM, folder)


@adapters_app.command(short_help="Take an idle revision off the engines.")
def evict(revision: RevisionArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Take an idle revision off the engines; its next request loads it again."""
    _change(revision, _Verb.EVICT, folder)


def top(
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=60.0, help="How often to look.")
    ] = 1.0,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Show engines, their load and your revisions on them, live until Ctrl-C."""
    console = wide_console()
    with _gateway(folder) as gateway:
        if once or not console.is_terminal:
            console.print(_look(gateway))
            return
        with Live(_look(gateway), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(_look_again(gateway), refresh=True)


def _change(revision: str, verb: _Verb, folder: FolderOption) -> None:
    with _gateway(folder) as gateway:
        _show(gateway.change(gateway.digest_of(revision), verb.value), as_json=False)


def _gateway(folder: FolderOption) -> GatewayClient:
    state = state_folder(folder)
    run = state.read_run() if state.running_pid() is not None else None
    if run is None:
        raise StackNotRunningError(folder=str(state.root))
    return GatewayClient(run.gateway_url, state.secrets().api_key)


def _show(adapters: Sequence[AdapterNow], *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(nearest_first(adapters)), indent=2).decode())
    elif adapters:
        wide_console().print(_adapter_table(adapters))
    else:
        typer.echo("none of your revisions is on an engine")


def _look(gateway: GatewayClient) -> Group:
    engines = Table(box=None, pad_edge=False)
    for title in ENGINE_COLUMNS:
        engines.add_column(title, no_wrap=True)
    for engine in gateway.engines():
        engines.add_row(*engine_cells(engine))
    return Group(engines, "", _adapter_table(gateway.adapters()))


def _look_again(gateway: GatewayClient) -> Group | str:
    try:
        return _look(gateway)
    except Unavailable as error:
        return str(error)


def _adapter_table(adapters: Sequence[AdapterNow]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ADAPTER_COLUMNS:
        table.add_column(title, no_wrap=True)
    now = time.time()
    for adapter in nearest_first(adapters)[:MOST_ROWS]:
        table.add_row(*adapter_cells(adapter, now=now))
    if len(adapters) > MOST_ROWS:
        table.caption = f"{len(adapters) - MOST_ROWS} more"
    return table
