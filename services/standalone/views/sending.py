"""Shows how much of a file or an adapter has been sent: a bar on a terminal, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from services.standalone.adapters.public_api import Progress as Report


@contextmanager
def sending(console: Console, what: str = "") -> Iterator[Report]:
    """Show a bar inside the block, moved by calls with (bytes sent, bytes in all)."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"sending {what}".strip(), total=None)

        def report(sent: int, total: int) -> None:
            word = "sending" if sent < total else "checking"
            progress.update(task, completed=sent, total=total, description=f"{word} {what}".strip())

        yield report
