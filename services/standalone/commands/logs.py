"""`mint logs`: what a part of the stack wrote."""

import difflib
import os
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from mint_client.commands.api import local_stack
from mint_client.commands.options import StackOption
from mint_client.core.refusals import StackElsewhereError
from mint_common.errors import NotFound
from services.standalone.core.log_tail import told_line

POLL_SECONDS = 0.3


def logs(
    part: Annotated[str, typer.Argument(metavar="PART", help="A part of the stack (mint status).")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Last lines to print.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines as they are in the file.")] = False,
    folder: StackOption = None,
) -> None:
    """Print the end of a part's log, such as gateway, trainer-tiny or postgres.

    Example: mint logs gateway -f
    """
    stack = local_stack(folder)
    if stack is None:
        raise StackElsewhereError(url=os.environ["MINT_URL"], command=f"mint logs {part}")
    with _log_of(stack.root / "log", part).open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=lines):
            _print(line, as_json=as_json)
        while follow:
            if line := file.readline():
                _print(line, as_json=as_json)
            else:
                time.sleep(POLL_SECONDS)


def _print(line: str, *, as_json: bool) -> None:
    for each in [line] if as_json else told_line(line.rstrip("\n")):
        typer.echo(each, nl=not as_json)


def _log_of(folder: Path, part: str) -> Path:
    names = sorted(path.stem for path in folder.glob("*.log"))
    if part not in names:
        near = difflib.get_close_matches(part, names) or names
        raise NotFound(kind="log", name=part, near=", ".join(near))
    return folder / f"{part}.log"
