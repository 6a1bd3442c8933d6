"""Shows a job while it trains: a live table on a terminal, a line per step elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.core.jobs import (
    TERMINAL,
    JobNow,
    StepNow,
    headline,
    is_scored,
    read_job,
    step_columns,
    step_row,
    step_rows,
    tiers_of,
)
from mint_client.core.refusals import WatchLostError
from mint_client.core.tables import cells
from mint_client.views.terminal import make_table
from mint_common.answer_ids import digest_prefix
from mint_common.errors import MintError

SHOWN_STEPS = 12
POLL_SECONDS = 0.5
PROMOTION_SECONDS = 30.0
AWAY_SECONDS = 300.0
"""Maximum time without an answer until a job is no longer followed."""

JobObserver = Callable[[JobNow, Json], None]
"""Told a job and the adapters on the engines."""
Note = Callable[[str], None]
"""Prints a sentence."""


def _unsaid(_text: str) -> None:
    """Print nothing."""


def follow_job(api: PublicApi, job_id: str, observe: JobObserver, note: Note = _unsaid) -> JobNow:
    """Return a job once it has ended, passing it to an observer meanwhile.

    ``note`` gets a sentence when the gateway does not answer. Raises WatchLostError if that lasts.
    """
    while True:
        job = _current(api, job_id, note)
        observe(job, _answer(api, "/adapters", job_id, note))
        if job.state in TERMINAL:
            return job
        time.sleep(POLL_SECONDS)


def follow_promotion(api: PublicApi, job: JobNow, note: Note = _unsaid) -> JobNow:
    """Return a job that has succeeded once its alias was moved or was not, or after `PROMOTION_SECONDS`.

    Raises WatchLostError.
    """
    deadline = time.monotonic() + PROMOTION_SECONDS
    while job.promotion and job.promotion.ended_at is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        job = _current(api, job.job_id, note)
    return job


def _current(api: PublicApi, job_id: str, note: Note) -> JobNow:
    return read_job(_answer(api, path_of("jobs", job_id), job_id, note))


def _answer(api: PublicApi, path: str, job_id: str, note: Note) -> Json:
    """Return an answer of a gateway that may be away meanwhile, for `AWAY_SECONDS` at most."""
    away_since: float | None = None
    while True:
        try:
            return api.get(path)
        except MintError as error:
            if not error.retryable:
                raise
            if away_since is None:
                away_since = time.monotonic()
                note(f"{error}; the job goes on, waiting for an answer")
            if time.monotonic() - away_since > AWAY_SECONDS:
                raise WatchLostError(problem=str(error), job_id=job_id) from error
        time.sleep(POLL_SECONDS)


class JobView:
    """Called with the API's data of the job and of the adapters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._lines = 0
        self._scored = set[int]()
        self._waits_for = ""

    def __call__(self, job: JobNow, adapters: Json) -> None:
        """See the job."""
        tiers = tiers_of(adapters)
        if self._live is not None:
            self._live.update(self._table(job, tiers))
            return
        for place, step in enumerate(job.done):
            if place >= self._lines:
                self.note(_line(step, tiers) if job.spec.data is None else _file_line(job, step))
            elif is_scored(step) and step.step not in self._scored:
                self.note(_file_line(job, step, only="valid_"))
            if is_scored(step):
                self._scored.add(step.step)
        self._lines = len(job.done)
        if job.waits_for != self._waits_for:
            self.note(job.waits_for or "the job goes on")
        self._waits_for = job.waits_for

    def note(self, text: str) -> None:
        """Print a sentence beside the table."""
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show the table inside the block, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def _table(self, job: JobNow, tiers: Mapping[str, str]) -> Group:
        rows = step_rows(job, job.steps[-SHOWN_STEPS:], tiers)
        earlier = len(job.steps) - len(rows)
        return Group(
            Text(headline(job, now=time.time())),
            *([Text(job.waits_for)] if job.waits_for else []),
            *([Text(f"{earlier} earlier steps are not shown", style="dim")] if earlier else []),
            make_table(rows, step_columns(job), width=self._console.width),
        )


def _line(step: StepNow, tiers: Mapping[str, str]) -> str:
    row = step_row(step, tiers)
    reward = "" if step.reward_mean is None else f"{step.reward_mean:.2f}"
    number, digest = ("", "") if step.revision is None else (step.revision.number, step.revision.digest)
    sampled = f"step {step.step:>3}  sampled {row['sampled'] or '':>4}  reward {reward:>4}"
    scored = "" if step.valid_reward_mean is None else f"  valid reward {step.valid_reward_mean:.2f}"
    return f"{sampled}  revision {number:>3}  {digest_prefix(digest)}  {row['tier']}{scored}"


def _file_line(job: JobNow, step: StepNow, *, only: str = "") -> str:
    """Return a step of a job on a file: its numbers, or ``only`` some, under the titles of the table.

    Scores that are sampled are known after their step's line.
    """
    (row,) = step_rows(job, [step], {})
    told = [
        column
        for column in step_columns(job)
        if column.path.startswith(only) and (column.kind in {"score", "rate"} or column.path == "sampled")
    ]
    numbers = [f"{column.title} {cell}" for column, cell in zip(told, cells(row, told), strict=True) if cell]
    return f"step {step.step:>3}  {'  '.join(numbers)}  revision {row['revision'] or ''}"
