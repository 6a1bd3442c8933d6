"""Shows a job while it trains: a live table on a terminal, a line per step elsewhere."""

import contextlib
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.standalone.adapters.public_api import Json
from services.standalone.core.jobs import JobNow, StepNow

SHOWN_STEPS = 12
BAR_CELLS = 30


class JobView:
    """Called with what the API says of the job and of the adapters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._lines = 0

    def __call__(self, job: JobNow, adapters: Json) -> None:
        """See the job."""
        tiers = {adapter["digest"]: adapter["tier"] for adapter in adapters}
        if self._live is not None:
            self._live.update(_table(job, tiers))
            return
        done = [step for step in job.steps if step.revision is not None]
        for step in done[self._lines :]:
            self._console.print(_line(step, tiers), highlight=False, soft_wrap=True)
        self._lines = len(done)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the table inside the block, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None


def _cells(step: StepNow, tiers: dict[str, str]) -> tuple[str, str, str, str, str]:
    reward = "" if step.reward_mean is None else f"{step.reward_mean:.2f}"
    revision = step.revision
    if revision is None:
        return str(step.step), reward, "", "", step.state
    short = revision.digest.removeprefix("sha256:")[:12]
    return str(step.step), reward, str(revision.number), short, tiers.get(revision.digest, "stored")


def _line(step: StepNow, tiers: dict[str, str]) -> str:
    number, reward, revision, short, tier = _cells(step, tiers)
    return f"step {number:>3}  reward {reward:>4}  revision {revision:>3}  {short}  {tier}"


def _table(job: JobNow, tiers: dict[str, str]) -> Group:
    table = Table(box=None, pad_edge=False)
    for title in ("step", "reward", "revision", "digest", "tier"):
        table.add_column(title, min_width=8)
    table.add_column("", min_width=BAR_CELLS)
    for step in job.steps[-SHOWN_STEPS:]:
        bar = Text("█" * round(BAR_CELLS * (step.reward_mean or 0.0)), style="green")
        table.add_row(*_cells(step, tiers), bar)
    return Group(f"job {job.state}", table)
