"""`mint doctor`: can this machine run a stack?"""

import os
from collections.abc import Sequence

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mint_client.commands.options import FolderOption, JsonOption
from mint_client.views.terminal import print_json
from services.standalone.adapters.machine import look
from services.standalone.commands.options import state_folder
from services.standalone.core.findings import Finding, Verdict, examine, is_healthy
from services.standalone.settings import read_standalone_settings

COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def doctor(folder: FolderOption = None, *, as_json: JsonOption = False) -> None:
    """Check whether this machine can run a stack; each problem comes with advice. The exit code is 1 if a
    check fails.

    Example: mint doctor --dir /data/mint
    """
    findings = examine(look(state_folder(folder), read_standalone_settings(os.environ)))
    console = Console()
    if as_json:
        print_json(msgspec.to_builtins(findings))
    elif console.is_terminal:
        console.print(_table(findings))
    else:
        for finding in findings:
            typer.echo("\t".join((finding.verdict, finding.subject, *_told(finding))))
    if not is_healthy(findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        verdict = f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(verdict, finding.subject, escape("\n".join(_told(finding))))
    return table


def _told(finding: Finding) -> tuple[str, ...]:
    return (finding.found, f"-> {finding.advice}") if finding.advice else (finding.found,)
