"""Errors of files, in OpenAI's shape. A user's fault is 400, 404 or 413, which no client repeats."""

from mint_common.datasets import DatasetReport
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.json_types import JsonObject
from services.gateway.core.files.records import MAX_FILES
from services.gateway.core.idempotency import HEADER


class DatasetRefused(MintError):
    """Line {line}: {problem}"""

    code = "invalid_jsonl"
    http_status = 422

    def __init__(self, report: DatasetReport) -> None:
        first = report.problems[0]
        super().__init__(line=first.line, problem=first.message, count=report.count)
        self.errors: list[JsonObject] = [
            {"line": each.line, "code": each.code, "message": each.message} for each in report.problems
        ]

    def to_payload(self) -> dict[str, object]:
        """Return it with the problems of the first lines."""
        return {**super().to_payload(), "errors": self.errors}


class FilesFull(MintError):
    """Your files would have {needed} {what}, and may have {limit}: delete some first."""

    code = "files_full"
    http_status = 422


class UploadClosed(MintError):
    """Upload {upload_id} is {status}: begin a new one."""

    code = "upload_closed"
    http_status = 422


def check_room(held_bytes: int, count: int, *, limit_bytes: int) -> None:
    """Refuse more than a tenant may have: bytes, or files and open uploads. Raises FilesFull."""
    if held_bytes > limit_bytes:
        raise FilesFull(needed=held_bytes, what="bytes", limit=limit_bytes)
    if count > MAX_FILES:
        raise FilesFull(needed=count, what="files and open uploads", limit=MAX_FILES)


def check_same(found_sha256: str, sha256: str) -> None:
    """Refuse a repeat of a request that comes with other bytes. Raises InvalidField."""
    if found_sha256 != sha256:
        raise InvalidField(field=HEADER, problem="came before with other bytes: use a new key")


def file_error_body(error: MintError) -> JsonObject:
    """Return ``{"error": {message, type, param, code}}``, and of rows also ``line, errors, count``."""
    kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
    told: JsonObject = {"message": str(error), "type": kind, "param": _param(error), "code": error.code}
    if isinstance(error, DatasetRefused):
        told |= {"errors": error.errors, "count": error.count}
    if "line" in error.fields:
        told["line"] = error.fields["line"]
    return {"error": told}


def _param(error: MintError) -> str | None:
    match error:
        case InvalidField():
            return str(error.field)
        case DatasetRefused():
            return "file"
        case NotFound():
            return f"{error.kind}_id"
    return None
