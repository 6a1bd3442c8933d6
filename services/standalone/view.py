"""Shows the parts of a stack while they start: a live table on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.standalone.core.lifecycle import Life, PartState

COLOURS = {
    PartState.WAITING: "dim",
    PartState.STARTING: "yellow",
    PartState.READY: "green",
    PartState.RESTING: "magenta",
    PartState.STOPPING: "yellow",
    PartState.STOPPED: "dim",
    PartState.FAILED: "red",
}


class PartsView:
    """An observer of the supervisor that prints what it sees."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lives: Mapping[str, Life] = {}
        self._shown: dict[str, PartState] = {}
        self._live: Live | None = None
        self._began = time.monotonic()

    def __call__(self, lives: Mapping[str, Life]) -> None:
        """See a change."""
        self._lives = dict(lives)
        if self._live is not None:
            self._live.update(self._table())
            return
        for name, life in lives.items():
            known = self._shown.get(name, PartState.WAITING)
            if life.state is not known:
                self._line(name, life)
                self._shown[name] = life.state

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the table inside the block; afterwards, and without a terminal, changes are lines."""
        if not self._console.is_terminal:
            yield
            return
        with Live(self._table(), console=self._console, refresh_per_second=8) as self._live:
            try:
                yield
            finally:
                self._live.update(self._table())
        self._live = None
        self._shown = {name: life.state for name, life in self._lives.items()}

    def _line(self, name: str, life: Life) -> None:
        seconds = time.monotonic() - self._began
        restarts = f" (restart {life.restarts})" if life.restarts else ""
        text = f"{seconds:7.2f}s  {name:<18} {life.state.value}{restarts}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("part", "state", "pid", "restarts"):
            table.add_column(title, min_width=8)
        for name, life in self._lives.items():
            state = f"[{COLOURS[life.state]}]{life.state.value}[/]"
            table.add_row(name, state, str(life.pid or ""), str(life.restarts or ""))
        return table
