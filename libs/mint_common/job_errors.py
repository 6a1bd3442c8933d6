"""Refusals of files, graders and jobs on files. Each is a user's fault, which no client repeats."""

from collections.abc import Sequence

from mint_common.errors import InvalidField, MintError
from mint_common.json_types import JsonObject


class DatasetRefused(MintError):
    """Line {line}: {problem}"""

    code = "invalid_jsonl"
    http_status = 422

    def __init__(self, *, errors: Sequence[JsonObject] = (), **fields: str | float) -> None:
        """``errors`` are the problems of the first lines."""
        super().__init__(**fields)
        self.errors = errors

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


class EpisodeOver(MintError):
    """Episode {name!r} is not open: its job or time is over, or its service restarted. Claim another one."""

    code = "episode_over"
    http_status = 404


class JobRefused(InvalidField):
    """{problem}"""

    code = "job_refused"

    def __init__(self, *, reason: str, field: str, problem: str, **more: int) -> None:
        super().__init__(reason=reason, field=field, problem=problem, **more)
        self.code = reason


class MetricNotSupported(MintError):
    """Metric {metric!r} is not computed here: it is one of {known}."""

    code = "metric_not_supported"
    http_status = 422


class GraderNotSupported(MintError):
    """Graders of type {type!r} do not run here: {problem}"""

    code = "grader_not_supported"
    http_status = 422
