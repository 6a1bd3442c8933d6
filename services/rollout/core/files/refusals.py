"""Refusals of files."""

from mint_common.datasets import DatasetReport
from mint_common.errors import InvalidField
from mint_common.job_errors import DatasetRefused, FilesFull
from mint_common.json_types import JsonObject
from services.rollout.core.files.records import MAX_FILES


def dataset_refused(report: DatasetReport) -> DatasetRefused:
    """Return the refusal of rows, with the problems of the first lines."""
    first = report.problems[0]
    problems: list[JsonObject] = [
        {"line": each.line, "code": each.code, "message": each.message} for each in report.problems
    ]
    return DatasetRefused(line=first.line, problem=first.message, count=report.count, errors=problems)


def check_room(held_bytes: int, count: int, *, limit_bytes: int) -> None:
    """Refuse more than a tenant may have: bytes, or files and open uploads. Raises FilesFull."""
    if held_bytes > limit_bytes:
        raise FilesFull(needed=held_bytes, what="bytes", limit=limit_bytes)
    if count > MAX_FILES:
        raise FilesFull(needed=count, what="files and open uploads", limit=MAX_FILES)


def check_same(found_sha256: str, sha256: str) -> None:
    """Refuse a repeat of a request that comes with other bytes. Raises InvalidField."""
    if found_sha256 != sha256:
        raise InvalidField(field="Idempotency-Key", problem="came before with other bytes: use a new key")
