"""Sources of rows on the command line: their options, and how they are prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from mint_client.adapters.prepared_rows import PreparedRows, Reading, prepare_rows
from mint_client.core.columns import PROBLEM
from mint_client.core.conversion import read_map
from mint_client.core.refusals import RowsRefusedError
from mint_client.views.rows import reading_rows
from mint_client.views.terminal import print_rows

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="File of rows (JSONL, JSON, CSV, TSV, Parquet, text; .gz, .zst), folder of save_to_disk, or "
        "hf:ORG/NAME:SPLIT.",
    ),
]
MapOption = Annotated[
    str,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN,...",
        help="Columns by the names that a layout has, such as prompt=question,completion=answer.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse columns that are not used instead of leaving them out.")
]


@contextmanager
def prepared(
    *names: str, renamed: str, strict: bool, limit: int | None = None
) -> Iterator[list[PreparedRows]]:
    """Read sources, whose files are there inside the block."""
    reading = Reading(renamed=read_map(renamed), is_strict=strict, limit=limit)
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="mint-") as folder:
        found = []
        for place, name in enumerate(names):
            own = Path(folder) / str(place)
            own.mkdir()
            with reading_rows(console, name) as progress:
                found.append(prepare_rows(name, reading, folder=own, progress=progress))
        yield found


def without_problems(found: PreparedRows) -> PreparedRows:
    """Return a source whose rows are good. Raises RowsRefusedError."""
    report = found.report
    if report.count:
        raise RowsRefusedError(what=found.name, count=report.count, problems=report.problems)
    return found


@contextmanager
def refusing() -> Iterator[None]:
    """Print the problems of rows that are refused inside the block as a table."""
    try:
        yield
    except RowsRefusedError as refused:
        rows = [msgspec.to_builtins(problem) for problem in refused.problems]
        print_rows(rows, PROBLEM, nothing="", is_error=True)
        more = int(refused.count) - len(rows)
        if more:
            typer.echo(f"and {more} more", err=True)
        raise
