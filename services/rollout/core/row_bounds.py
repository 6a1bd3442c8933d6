"""Limits of the rows of a step or a validation, which are all in memory together."""

from dataclasses import dataclass

from mint_common.events import JobData
from services.rollout.core.fault import RowSource
from services.rollout.core.validation import MeasuredFile

MAX_BYTES = 32 << 20
"""Maximum bytes of a step's lines in the file; a line has 1 MiB at most."""
MAX_TOKENS = 2 << 20
"""Maximum tokens of a step's examples, as the base reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBounds:
    """Rows of a file that are worked on together: which they are, and how a job has fewer of them."""

    source: RowSource
    rows: str
    advice: str

    def check_bytes(self, count: int) -> None:
        """Raise DataRefused for more than `MAX_BYTES`."""
        self._check(count, MAX_BYTES, "bytes")

    def check_tokens(self, count: int) -> None:
        """Raise DataRefused for more than `MAX_TOKENS`."""
        self._check(count, MAX_TOKENS, "tokens")

    def _check(self, count: int, most: int, unit: str) -> None:
        if count > most:
            problem = f"{self.rows} have {count:,} {unit} or more, the limit is {most:,}: {self.advice}"
            raise self.source.refused("too_large", problem)


def step_bounds(data: JobData) -> RowBounds:
    """Return the bounds of the rows of any step of a job."""
    source = RowSource(file=data.training.filename, param="training_file")
    return RowBounds(source=source, rows="the rows of one step", advice="choose a smaller batch_size")


def validation_bounds(measured: MeasuredFile) -> RowBounds:
    """Return the bounds of the rows that a job's revisions are measured on."""
    return RowBounds(
        source=measured.source,
        rows="the rows that revisions are measured on",
        advice="choose fewer of them with mint.evaluation.rows",
    )
