"""Shows how much of a file or an adapter has been moved: a bar on a terminal, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from mint_client.adapters.public_api import Progress as Report


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
