"""Faults of a job's data: they fail the job, with the file, the code and the line."""

from dataclasses import dataclass
from typing import Literal

from mint_common.errors import BlobCorrupt, BlobMissing, MintError
from mint_common.events import JobData, RevisionRejected, TrainingFailed, WaveCancelled

FileParam = Literal["training_file", "validation_file", "file"]
"""The field of a job or of an evaluation run that names a file."""


class DataRefused(MintError):
    """{where}: {problem}"""

    code = "data_refused"
    http_status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault:
    """A fault of a job's data: a stable code, a message, the field that is wrong, and a line of its file.

    ``line`` counts from 1; None when it is none of a single line.
    """

    code: str
    message: str
    param: str
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """The origin of rows: the name of their file, and the field of the job or run that names it."""

    file: str
    param: FileParam

    def refused(self, code: str, problem: str) -> DataRefused:
        """Return the error of the file as a whole."""
        return DataRefused(where=self.file, problem=problem, reason=code, param=self.param)

    def row_refused(self, line: int, code: str, problem: str) -> DataRefused:
        """Return the error of a row that cannot be trained on."""
        where = f"Line {line} of {self.file}"
        return DataRefused(where=where, problem=problem, reason=code, param=self.param, line=line)


def storable(text: str) -> str:
    """Return a text that somebody else's code wrote; Postgres takes no character 0."""
    return text.replace("\x00", "\ufffd")


def internal_reason(error: Exception) -> str:
    """Return the user's message of an internal error; its own text is for the log."""
    return f"internal error: {type(error).__name__}"


def fault_of(error: MintError, data: JobData | None) -> JobFault | None:
    """Return the fault of a job's data in an error, None if the data is not the cause."""
    if isinstance(error, DataRefused):
        line = error.fields.get("line")
        return JobFault(
            code=str(error.reason),
            message=storable(str(error)),
            param=str(error.param),
            line=None if line is None else int(line),
        )
    if data is not None and isinstance(error, BlobMissing | BlobCorrupt):
        plan = data.evaluation
        files = {"training_file": data.training, "validation_file": plan.file if plan else None}
        for param, file in files.items():
            if file is not None and file.content.uri == error.uri:
                return JobFault(code=error.code, message=str(error), param=param, line=None)
    return None


def failure_reason(fact: WaveCancelled | RevisionRejected | TrainingFailed) -> str:
    """Return the reason that a job fails with."""
    if isinstance(fact, RevisionRejected):
        return f"revision rejected ({fact.code}): {fact.reason}"
    if isinstance(fact, TrainingFailed):
        return f"training failed ({fact.code}): {fact.reason}"
    return f"wave cancelled: {fact.reason}"
