"""`mint demo`: the whole story in minutes."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from mint_client.core.tables import DIGEST_CHARACTERS
from services.standalone.adapters.bases import DEMO_FOLDER
from services.standalone.commands.options import DTypeOption, state_folder
from services.standalone.demo.report import Report
from services.standalone.demo.run import run_demo


def demo(
    base: Annotated[
        Literal["smollm2", "tiny"],
        typer.Option(
            help="smollm2 learns to continue arithmetic progressions (under 8 minutes on two cores); tiny "
            "learns which of its skills is wanted (about a minute)."
        ),
    ] = "smollm2",
    dtype: DTypeOption = "auto",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Use the bases of this state folder. Default: bases kept below --out.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for report.json, report.md and reward.png.")
    ] = DEMO_FOLDER,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Training steps. Default: the task's own.")
    ] = None,
) -> None:
    """Train a policy by RL, serve its revisions, move and roll back an alias, then write a report.

    Starts a stack of its own, creates a policy, submits a GRPO job over REST, measures the held-out accuracy
    of the base, the first and the last revision through the OpenAI endpoint, and moves `prod` back and forth.
    The exit code is 1 if accuracy rises by less than 0.2 or a check fails.

    Example: mint demo --base tiny
    """
    console = Console()
    target = out.absolute()
    bases = target / "bases" if folder is None else state_folder(folder).bases
    try:
        report = asyncio.run(
            run_demo(base, bases=bases, out=target, dtype=dtype, steps=steps, console=console)
        )
    except asyncio.CancelledError:
        typer.echo("interrupted; the stack is stopped", err=True)
        raise typer.Exit(130) from None
    console.print(_summary(report))
    console.print(f"report: {target / 'report.md'}", highlight=False, soft_wrap=True)
    for name in report.failed:
        typer.echo(f"check failed: {name}", err=True)
    if report.failed:
        raise typer.Exit(1)


def _summary(report: Report) -> Table:
    accuracy = report.accuracy
    table = Table(title=f"{report.task} on {report.base}: {report.steps} steps, {report.wall_seconds:.0f} s")
    table.add_column("model")
    table.add_column(f"held-out accuracy (n = {accuracy.n})", justify="right")
    table.add_column("digest", no_wrap=True)
    first, last = report.revisions[0], report.revisions[-1]
    table.add_row(report.base, f"{accuracy.base:.3f}", "")
    table.add_row(f"demo@{first.number}", f"{accuracy.first:.3f}", first.digest[:DIGEST_CHARACTERS])
    table.add_row(f"demo@{last.number}", f"{accuracy.last:.3f}", last.digest[:DIGEST_CHARACTERS])
    return table
