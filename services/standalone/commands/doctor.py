"""`mint doctor`: can this machine run a stack?"""

import os

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.standalone.adapters.machine import look
from services.standalone.commands.options import FolderOption, state_folder
from services.standalone.core.findings import Verdict, examine, is_healthy
from services.standalone.settings import read_standalone_settings

COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def doctor(folder: FolderOption = None) -> None:
    """Check what a stack needs of this machine, and say what to do. Exit code 1 when something fails.

    Example: mint doctor --dir /data/mint
    """
    findings = examine(look(state_folder(folder), read_standalone_settings(os.environ)))
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        found = escape(finding.found)
        text = f"{found}\n-> {escape(finding.advice)}" if finding.advice else found
        table.add_row(f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]", finding.subject, text)
    Console().print(table)
    if not is_healthy(findings):
        raise typer.Exit(1)
