"""`mint data`: files of rows to train on, without a stack."""

from pathlib import Path
from typing import Annotated

import typer

from mint_common.datasets import MAX_PROBLEMS, DatasetReport, Repeats
from mint_common.datasets.check import check_file
from mint_common.datasets.repeats import shared_rows

data_app = typer.Typer(
    help="Check files of training rows: JSONL, one row per line. See docs/datasets.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.callback()
def _data() -> None:
    """Make `check` a subcommand."""


@data_app.command(short_help="Check every line; find repeated rows.")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSONL file.")],
    validation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Validation file; the rows that both files have are listed."),
    ] = None,
) -> None:
    """Check each line of a file as an upload does, and print its format. The exit code is 1 if a line is
    wrong.

    Example: mint data check train.jsonl --validation held-out.jsonl
    """
    report, digests = check_file(file)
    reports = {file: report}
    if validation is not None:
        reports[validation], others = check_file(validation)
        for line in _repeated(shared_rows(digests, others), f"{validation}:{{0}}: is also {file}:{{1}}"):
            typer.echo(line)
    for path, found in reports.items():
        _tell(path, found)
    if any(found.count for found in reports.values()):
        raise typer.Exit(1)


def _tell(path: Path, report: DatasetReport) -> None:
    for line in _repeated(report.repeats, f"{path}:{{0}}: repeats line {{1}}"):
        typer.echo(line)
    for problem in report.problems:
        typer.echo(f"{path}:{problem.line}: {problem.message} ({problem.code})", err=True)
    if report.count > MAX_PROBLEMS:
        typer.echo(f"{path}: {report.count - MAX_PROBLEMS} more problems", err=True)
    verdict = f"{report.count} problem{'s' if report.count > 1 else ''}" if report.count else "ok"
    kind = report.format or "no format"
    typer.echo(f"{verdict}: {path}: {kind}, {report.rows} rows, {report.repeats.count} repeated")


def _repeated(repeats: Repeats, text: str) -> list[str]:
    return [text.format(line, other) for line, other in repeats.pairs]
