"""Format tables: fitted and coloured on a terminal; elsewhere tabs, for programs."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mint_client.adapters.public_api import Progress as Report
from mint_client.core.columns import Column
from mint_client.core.tables import LINE_BREAK, Row, cells, fitting

STATE_STYLES = {
    **dict.fromkeys(("succeeded", "ready", "published", "active", "delivered"), "green"),
    **dict.fromkeys(
        ("running", "submitted", "starting", "stopping", "waiting", "paused", "restarting"), "yellow"
    ),
    **dict.fromkeys(("failed", "quarantined", "rejected", "disabled", "lost"), "red"),
    **dict.fromkeys(("cancelled", "retired", "stopped"), "dim"),
}


def print_rows(
    rows: Sequence[Row], columns: Sequence[Column], *, nothing: str, is_error: bool = False
) -> None:
    """Print what fits on a terminal; elsewhere every column, separated by tabs and not padded."""
    console = Console(stderr=is_error)
    if not rows:
        typer.echo(nothing, err=is_error)
    elif console.is_terminal:
        console.print(make_table(rows, columns, width=console.width))
    else:
        told = [column for column in columns if column.kind != "bar"]
        for line in (tuple(column.title for column in told), *(cells(row, told) for row in rows)):
            typer.echo("\t".join(line), err=is_error)


def print_json(answer: object) -> None:
    """Print the gateway's answer, for programs."""
    typer.echo(json.dumps(answer, indent=2))


def make_table(rows: Sequence[Row], columns: Sequence[Column], *, width: int) -> Table:
    """Return a table no wider than ``width``, if need be without its less important columns."""
    kept = fitting(columns, rows, width=width)
    table = Table(box=None, pad_edge=False)
    for column in kept:
        table.add_column(column.title, overflow="fold", no_wrap=column.kind == "id")
    for row in rows:
        table.add_row(*(_text(cell, column) for cell, column in zip(cells(row, kept), kept, strict=True)))
    return table


def _text(cell: str, column: Column) -> Text:
    style = {"state": STATE_STYLES.get(cell, ""), "bar": "green"}.get(column.kind, "")
    return Text(cell.replace(LINE_BREAK, "\n") if column.kind == "lines" else cell, style=style)


def sending(console: Console, what: str = "") -> AbstractContextManager[Report]:
    """Show a bar inside the block, moved by calls with (bytes sent, bytes in all)."""
    return _bar(console, what, doing="sending", ending="checking")


def receiving(console: Console) -> AbstractContextManager[Report]:
    """Show the progress of a download."""
    return _bar(console, "", doing="receiving", ending="receiving")


@contextmanager
def _bar(console: Console, what: str, *, doing: str, ending: str) -> Iterator[Report]:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{doing} {what}".strip(), total=None)

        def report(moved: int, total: int) -> None:
            word = doing if moved < total else ending
            progress.update(task, completed=moved, total=total, description=f"{word} {what}".strip())

        yield report
