"""`mint data`: sources of rows to train on, without a stack."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mint_client.adapters.prepared_rows import PreparedRows
from mint_client.commands.sources import (
    MapOption,
    SourceArgument,
    StrictOption,
    prepared,
    refusing,
    without_problems,
)
from mint_client.core.tables import counted
from mint_client.views.rows import print_understood
from mint_common.datasets import MAX_PROBLEMS, Repeats
from mint_common.datasets.repeats import shared_rows

data_app = typer.Typer(
    help="Check, show or convert rows to train on, of files, folders and hubs. See docs/guides/datasets.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.command(short_help="Check every row; find repeated rows.")
def check(
    source: SourceArgument,
    *,
    validation: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="Validation rows; the rows that both sources have are listed."),
    ] = "",
    renamed: MapOption = "",
    strict: StrictOption = False,
) -> None:
    """Check each row as an upload does, and print the format. The exit code is 1 if a row is wrong.

    Example: mint data check train.jsonl --validation held-out.parquet
    """
    with prepared(*filter(None, (source, validation)), renamed=renamed, strict=strict) as sources:
        if validation:
            shared = shared_rows(sources[0].digests, sources[1].digests)
            for line in _repeated(shared, f"{validation}:{{0}}: is also {source}:{{1}}"):
                typer.echo(line)
        for found in sources:
            _tell(found)
    if any(found.report.count for found in sources):
        raise typer.Exit(1)


@data_app.command(short_help="Show rows as they are trained.")
def preview(
    source: SourceArgument,
    *,
    count: Annotated[
        int, typer.Option("--rows", "-n", metavar="N", min=1, max=100, help="Number of rows.")
    ] = 3,
    renamed: MapOption = "",
    strict: StrictOption = False,
) -> None:
    """Read the first rows, and show what is understood: format, columns left out, and what is trained.

    Example: mint data preview hf:tatsu-lab/alpaca:train
    """
    with refusing(), prepared(source, renamed=renamed, strict=strict, limit=count) as (found,):
        print_understood(Console(), without_problems(found), rows=count)


@data_app.command(short_help="Write rows as JSONL that any stack takes.")
def convert(
    source: SourceArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSONL file to write.")],
    limit: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="Only the first rows.")
    ] = None,
    renamed: MapOption = "",
    strict: StrictOption = False,
) -> None:
    """Write the rows as JSONL in the format that they are trained in. A file is written whole or not at all.

    Example: mint data convert answers.csv -o train.jsonl --map prompt=question,completion=answer
    """
    with refusing(), prepared(source, renamed=renamed, strict=strict, limit=limit) as (found,):
        print_understood(Console(stderr=True), without_problems(found))
        part = out.with_name(f"{out.name}.part")
        shutil.copyfile(found.path, part)
        part.replace(out)
    typer.echo(f"{out}: {found.format}, {found.count:,} rows")


def _tell(found: PreparedRows) -> None:
    report, name = found.report, found.name
    for line in _repeated(report.repeats, f"{name}:{{0}}: repeats line {{1}}"):
        typer.echo(line)
    for problem in report.problems:
        typer.echo(f"{name}:{problem.line}: {problem.message} ({problem.code})", err=True)
    if report.count > MAX_PROBLEMS:
        typer.echo(f"{name}: {report.count - MAX_PROBLEMS} more problems", err=True)
    if found.left_out:
        typer.echo(f"{name}: left out: {', '.join(found.left_out)}")
    verdict = counted(report.count, "problem") if report.count else "ok"
    kind = report.format or "no format"
    layout = f" from {found.layout}" if found.layout not in {"", kind} else ""
    typer.echo(f"{verdict}: {name}: {kind}{layout}, {report.rows} rows, {report.repeats.count} repeated")


def _repeated(repeats: Repeats, text: str) -> list[str]:
    return [text.format(line, other) for line, other in repeats.pairs]
