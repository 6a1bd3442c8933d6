"""Shows the parts of a stack while they start: a live table on a terminal, plain lines elsewhere."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.standalone.core.lifecycle import PartState, PartStatus

COLOURS = {
    PartState.WAITING: "dim",
    PartState.STARTING: "yellow",
    PartState.READY: "green",
    PartState.RESTARTING: "magenta",
    PartState.STOPPING: "yellow",
    PartState.STOPPED: "dim",
    PartState.FAILED: "red",
}


REMIND_SECONDS = 15.0


class PartsView:
    """Observer of the supervisor that prints the changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._statuses: Mapping[str, PartStatus] = {}
        self._shown: dict[str, PartState] = {}
        self._live: Live | None = None
        self._began = time.monotonic()

    def __call__(self, statuses: Mapping[str, PartStatus]) -> None:
        """Print a change."""
        self._statuses = dict(statuses)
        if self._live is not None:
            return
        for name, status in statuses.items():
            known = self._shown.get(name, PartState.WAITING)
            if status.state is not known and not _never_started(status):
                self._line(name, status)
                self._shown[name] = status.state

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the table inside the block; afterwards, and without a terminal, changes are lines."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=8) as self._live:
            yield
        self._live = None
        self._shown = {name: status.state for name, status in self._statuses.items()}

    def are_ready(self, names: Collection[str]) -> bool:
        """Return whether all of some parts are ready."""
        return all(self._statuses[name].state is PartState.READY for name in names)

    async def remind(self) -> None:
        """Print from time to time, until cancelled, which parts are starting and for how long."""
        while True:
            await asyncio.sleep(REMIND_SECONDS)
            starting = [
                f"{name} ({time.monotonic() - status.since:.0f} s)"
                for name, status in self._statuses.items()
                if status.state is PartState.STARTING
            ]
            if starting and self._live is None:
                self.say(f"{time.monotonic() - self._began:7.2f}s  still loading: {', '.join(starting)}")

    def say(self, text: str) -> None:
        """Print a text; a full disk or a closed pipe of the output does not stop the stack."""
        with contextlib.suppress(OSError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, name: str, status: PartStatus) -> None:
        seconds = time.monotonic() - self._began
        restarts = f" (restart {status.restarts})" if status.restarts else ""
        self.say(f"{seconds:7.2f}s  {name:<18} {status.state.value}{restarts}")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("part", "state", "pid", "restarts"):
            table.add_column(title, min_width=8)
        for name, status in self._statuses.items():
            word = "not started" if _never_started(status) else status.state.value
            if status.state is PartState.STARTING:
                word = f"{word}, {time.monotonic() - status.since:.0f} s"
            state = f"[{COLOURS[status.state]}]{word}[/]"
            table.add_row(name, state, str(status.pid or ""), str(status.restarts or ""))
        return table


def _never_started(status: PartStatus) -> bool:
    return status.state is PartState.STOPPED and not status.starts
