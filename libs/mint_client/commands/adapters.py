"""`mint adapters`: where revisions are on the engines; `mint top`: the same and the trainers, live."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import Listing, add_command, api_command, open_api
from mint_client.commands.names import digest_of
from mint_client.commands.options import JsonOption, StackOption
from mint_client.commands.spelling import NamedRevisionArgument, split_name
from mint_client.core.columns import ADAPTER, ENGINE, TRAINER
from mint_client.core.tables import (
    Row,
    adapter_rows,
    engine_rows,
    restart_notes,
    trainer_rows,
    with_restarting,
)
from mint_client.views.terminal import make_table, print_json, print_rows
from mint_common.errors import NotFound, Unavailable

MAX_ROWS = 40
NOTHING = "none of your revisions is on an engine"

adapters_app = typer.Typer(
    help=("List, pin, load or evict your revisions on the engines.\n\nWithout a command: list them."),
    invoke_without_command=True,
    rich_markup_mode=None,
)


@adapters_app.callback()
def list_adapters(context: typer.Context, *, as_json: JsonOption = False, folder: StackOption = None) -> None:
    """List where your revisions are."""
    if context.invoked_subcommand is not None:
        return
    with open_api(folder) as api:
        rows, engines = _residency(api, ())
    if as_json:
        print_json(rows)
        return
    print_rows(rows, ADAPTER, nothing=NOTHING)
    for note in restart_notes(engines):
        typer.echo(note, err=True)


def _residency(api: PublicApi, earlier: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of adapters and of engines; ``earlier`` are the adapters of the look before."""
    engines = engine_rows(api.get("/engines"))
    return with_restarting(adapter_rows(api.get("/adapters"), now=time.time()), earlier, engines), engines


def _at_work(api: PublicApi) -> list[Row]:
    """Return the rows of trainers; none from a gateway of a version without them."""
    try:
        trainers = api.get("/trainers")
    except NotFound:
        return []
    is_named = any(trainer["policies"] for trainer in trainers)
    return trainer_rows(trainers, api.get("/policies") if is_named else [])


def pin(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Keep a revision on the engines that hold it, until it is unpinned.

    Example: mint adapters pin counter@prod
    """
    return _change(api, revision, "pin")


def unpin(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Allow a revision's eviction again.

    Example: mint adapters unpin counter@prod
    """
    return _change(api, revision, "unpin")


def prewarm(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Load a revision on the engine that its requests go to, and wait until it is ready.

    Example: mint adapters prewarm counter@20
    """
    return _change(api, revision, "prewarm")


def evict(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Remove an idle revision from the engines; its next request loads it again.

    Example: mint adapters evict counter@3
    """
    return _change(api, revision, "evict")


def _change(api: PublicApi, name: str, verb: str) -> Listing:
    policy, revision = split_name(name)
    found = api.post(path_of("adapters", digest_of(api, policy, revision), verb))
    return Listing(answer=found, columns=ADAPTER, rows=adapter_rows(found, now=time.time()), nothing=NOTHING)


for command, summary in (
    (pin, "Keep a revision from eviction."),
    (unpin, "Allow its eviction again."),
    (prewarm, "Load a revision before its first request."),
    (evict, "Remove an idle revision from the engines."),
):
    add_command(adapters_app, command, summary)


@api_command
def top(
    api: PublicApi,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=60.0, help="Seconds between refreshes.")
    ] = 1.0,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show engines and trainers, and your revisions and policies on them, live until Ctrl-C.

    Example: mint top --interval 2
    """
    console = Console()
    if as_json:
        adapters, engines = _residency(api, ())
        print_json({"engines": engines, "trainers": _at_work(api), "adapters": adapters})
    elif not console.is_terminal:
        adapters, engines = _residency(api, ())
        print_rows(engines, ENGINE, nothing="no engine answers")
        typer.echo("")
        print_rows(_at_work(api), TRAINER, nothing="no trainer answers")
        typer.echo("")
        print_rows(adapters, ADAPTER, nothing=NOTHING)
    elif once:
        adapters, engines = _residency(api, ())
        console.print(_tables(adapters, engines, _at_work(api), console, max_rows=MAX_ROWS))
    else:
        _watch(api, console, interval)


def _watch(api: PublicApi, console: Console, interval: float) -> None:
    adapters: list[Row] = []
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                adapters, engines = _residency(api, adapters)
                rows = _at_work(api)
                shown: Group | str = _tables(adapters, engines, rows, console, max_rows=console.height)
            except Unavailable as error:
                shown = str(error)
            live.update(shown, refresh=True)
            time.sleep(interval)


def _tables(
    adapters: Sequence[Row],
    engines: Sequence[Row],
    trainers: Sequence[Row],
    console: Console,
    *,
    max_rows: int,
) -> Group:
    """Return tables of at most ``max_rows`` lines together, and how many adapters these leave out."""
    room = max_rows - len(engines) - 3 - (len(trainers) + 2 if trainers else 0)
    shown = adapters if len(adapters) <= room else adapters[: max(1, room - 1)]
    left_out = len(adapters) - len(shown)
    at_work = [make_table(trainers, TRAINER, width=console.width)] if trainers else []
    return Group(
        make_table(engines, ENGINE, width=console.width),
        "",
        *at_work,
        *([""] if trainers else []),
        make_table(shown, ADAPTER, width=console.width) if adapters else NOTHING,
        *([f"and {left_out} more: mint adapters lists all"] if left_out else []),
    )
