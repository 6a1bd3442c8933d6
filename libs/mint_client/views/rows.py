"""Shows what was understood of a source of rows, and rows as they are trained."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mint_client.adapters.prepared_rows import PreparedRows
from mint_client.core.row_parts import RowPart, parts_of

_STYLES = {"": "", "wanted": "green", "unwanted": "red"}
_MARKS = {"": " ", "wanted": "+", "unwanted": "-"}
_LEGEND = {"wanted": "+ trained", "unwanted": "- trained against"}
_EVERY = 1000
"""Rows between two moves of the progress."""


@contextmanager
def reading_rows(console: Console, name: str) -> Iterator[Callable[[int], None]]:
    """Show inside the block how many rows were read, moved by calls with that number."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"reading {name}") as status:

        def report(number: int) -> None:
            if number % _EVERY == 0:
                status.update(f"reading {name}: {number:,} rows")

        yield report


def print_understood(console: Console, found: PreparedRows, *, rows: int = 1) -> None:
    """Print the format of a source, what is left out, and its first rows."""
    count = f"the first {found.count:,} rows" if found.is_part else f"{found.count:,} rows"
    kind = found.format
    layout = found.layout if found.layout == kind else f"{found.layout}, trained as {kind}"
    _print(console, Text(f"{found.name}: {found.kind}, {layout}, {count}"))
    if found.left_out:
        _print(console, Text(f"left out: {', '.join(found.left_out)}", style="yellow"))
    for number, row in found.rows(rows):
        parts = parts_of(row, kind)
        present = {part.trained for part in parts}
        marks = ", ".join(text for trained, text in _LEGEND.items() if trained in present)
        _print(console, Text.assemble((f"row {number:,}", "bold"), (f"  {marks}", "dim")))
        console.print(_table(parts), highlight=False)


def _table(parts: Sequence[RowPart]) -> Table:
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for part in parts:
        cells = _MARKS[part.trained], part.name, part.text
        table.add_row(*(Text(cell, style=_STYLES[part.trained]) for cell in cells))
    return table


def _print(console: Console, text: Text) -> None:
    console.print(text, highlight=False, soft_wrap=True)
