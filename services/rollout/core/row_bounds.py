"""How much the rows of a step, or those of a validation, may be: all of them are in memory together."""

from dataclasses import dataclass

from mint_common.events import JobData
from services.rollout.core.fault import DataRefused, FileParam, file_refused
from services.rollout.core.validation import MeasuredFile

MOST_BYTES = 32 << 20
"""Of their lines in the file; a line has 1 MiB at most."""
MOST_TOKENS = 2 << 20
"""Of all their examples, as the base reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBounds:
    """Rows of a file that are worked on together: which they are, and how a job has fewer of them."""

    file: str
    param: FileParam
    rows: str
    advice: str

    def check_bytes(self, count: int) -> None:
        """Raise DataRefused for more than `MOST_BYTES`."""
        if count > MOST_BYTES:
            raise self._refused(count, MOST_BYTES, "bytes")

    def check_tokens(self, count: int) -> None:
        """Raise DataRefused for more than `MOST_TOKENS`."""
        if count > MOST_TOKENS:
            raise self._refused(count, MOST_TOKENS, "tokens")

    def _refused(self, count: int, most: int, unit: str) -> DataRefused:
        problem = f"{self.rows} have {count:,} {unit} or more, the limit is {most:,}: {self.advice}"
        return file_refused(file=self.file, param=self.param, code="too_large", problem=problem)


def step_bounds(data: JobData) -> RowBounds:
    """Return the bounds of the rows of any step of a job."""
    return RowBounds(
        file=data.training.filename,
        param="training_file",
        rows="the rows of one step",
        advice="choose a smaller batch_size",
    )


def validation_bounds(measured: MeasuredFile) -> RowBounds:
    """Return the bounds of the rows that a job's revisions are measured on."""
    return RowBounds(
        file=measured.file.filename,
        param=measured.param,
        rows="the rows that revisions are measured on",
        advice="choose fewer of them with mint.evaluation.rows",
    )
