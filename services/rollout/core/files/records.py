"""Files and uploads as they are stored."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mint_common.claims import Claim
from mint_common.datasets import DatasetReport, Format
from mint_common.errors import InvalidField, NotFound
from mint_common.events import JobFile
from mint_common.file_requests import OTHER_PURPOSES, PURPOSES
from mint_common.ids import TenantId, new_id

CHECKED_PURPOSE = "fine-tune"
EXPIRY_SECONDS = (3600, 2_592_000)
"""The least and the most that ``expires_after`` may say: an hour, and 30 days."""
UPLOAD_SECONDS = 3600.0
"""Time that an upload accepts parts."""
PART_BYTES = 64 << 20
"""The most that a part may have."""
MAX_PARTS = 1000
MAX_FILES = 10_000
"""Files and open uploads that a tenant may have, together."""
PAGE_FILES = 1000
"""The most that a page of a list has, whatever is asked for."""

UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
Order = Literal["asc", "desc"]

_NAME = re.compile(r"[a-z0-9_-]{1,100}")
_FILE = re.compile(r"file-([0-9a-f]{14})[a-z2-7]{26}", re.ASCII)


class IdPrefix(StrEnum):
    """Prefixes of ids."""

    FILE = "file"
    UPLOAD = "upload"
    PART = "part"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """A file's bytes: what proves them, and what rows they are if they were checked as rows."""

    sha256: str
    size_bytes: int
    report: DatasetReport | None

    @property
    def claim(self) -> Claim:
        """Return where they are stored."""
        return content_claim(self.sha256, self.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDraft:
    """A client's description of a file."""

    tenant_id: TenantId
    filename: str
    purpose: str
    expires_after_seconds: int | None
    cause: str | None = None
    """The request that makes it, if that may be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A stored file. Times in seconds since the epoch. ``format`` and ``rows`` are of files of rows."""

    file_id: str
    tenant_id: TenantId
    filename: str
    purpose: str
    sha256: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    format: Format | None
    rows: int | None
    repeats: int | None
    """Rows that are equal to an earlier one."""

    @property
    def claim(self) -> Claim:
        """Return where its bytes are."""
        return content_claim(self.sha256, self.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord(FileDraft):
    """A file that comes in parts."""

    upload_id: str
    size_bytes: int
    mime_type: str
    status: UploadStatus
    created_at: float
    expires_at: float
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """A stored part of an upload."""

    part_id: str
    upload_id: str
    sha256: str
    size_bytes: int
    created_at: float
    cause: str | None = None

    @property
    def claim(self) -> Claim:
        """Return where its bytes are until the upload ends."""
        uri = f"file-parts/{self.upload_id}/{self.part_id}"
        return Claim(uri=uri, sha256=self.sha256, size_bytes=self.size_bytes)


def content_claim(sha256: str, size_bytes: int) -> Claim:
    """Return the place of bytes: equal bytes of all tenants are stored once."""
    return Claim(uri=f"files/{sha256}", sha256=sha256, size_bytes=size_bytes)


def job_file(file: FileRecord) -> JobFile:
    """Return a file of rows as a job names it."""
    assert file.format is not None, file.file_id
    assert file.rows is not None, file.file_id
    return JobFile(
        file_id=file.file_id, filename=file.filename, content=file.claim, format=file.format, rows=file.rows
    )


def new_file_id(created_us: int) -> str:
    """Return a new id, ``file-...`` as OpenAI's, which contains the microsecond since the epoch."""
    return new_id(f"file-{created_us:014x}").replace("_", "")


def created_at_of(file_id: str) -> float | None:
    """Return the creation time in a file's id, whether or not the file exists; None: the id has none."""
    found = _FILE.fullmatch(file_id)
    return None if found is None else int(found[1], 16) / 1e6


def new_file(draft: FileDraft, content: FileContent, *, now: float) -> FileRecord:
    """Return the record of a new file."""
    report, created_us = content.report, round(now * 1e6)
    return FileRecord(
        file_id=new_file_id(created_us),
        tenant_id=draft.tenant_id,
        filename=draft.filename,
        purpose=draft.purpose,
        sha256=content.sha256,
        size_bytes=content.size_bytes,
        created_at=created_us / 1e6,
        expires_at=None if draft.expires_after_seconds is None else now + draft.expires_after_seconds,
        format=None if report is None else report.format,
        rows=None if report is None else report.rows,
        repeats=None if report is None else report.repeats.count,
    )


def check_id(kind: IdPrefix, name: str) -> str:
    """Return a name that an id may have. Raises NotFound."""
    if not _NAME.fullmatch(name):
        raise NotFound(kind=kind.value, name=name[:100])
    return name


def check_purpose(purpose: str) -> str:
    """Return a purpose that files are taken for. Raises InvalidField."""
    if purpose not in PURPOSES:
        problem = f"{purpose[:40]!r} is not served: it is one of {', '.join(PURPOSES)}"
        raise InvalidField(field="purpose", problem=problem)
    return purpose


def check_listed_purpose(purpose: str) -> str:
    """Return a purpose that a file may have here or at OpenAI. Raises InvalidField."""
    return purpose if purpose in OTHER_PURPOSES else check_purpose(purpose)


def page_size(asked: int) -> int:
    """Return how many files a page has. Clients read on while an answer's ``has_more`` is true."""
    return min(asked, PAGE_FILES)


def check_filename(name: str) -> str:
    """Return a name that files may have. Raises InvalidField."""
    if not (0 < len(name) <= 255 and name.isprintable()):
        raise InvalidField(field="file", problem="its name must have 1 to 255 printable characters")
    return name


def check_expiry(anchor: str | None, seconds: int | str | None) -> int | None:
    """Return the lifetime of a file; None: until it is deleted. Raises InvalidField."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidField(field="expires_after.anchor", problem="must be 'created_at'")
    least, most = EXPIRY_SECONDS
    digits = str(seconds)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and least <= int(digits) <= most):
        raise InvalidField(field="expires_after.seconds", problem=f"must be a number from {least} to {most}")
    return int(digits)


def check_parts(upload: UploadRecord, asked: Sequence[str], stored: Sequence[PartRecord]) -> list[PartRecord]:
    """Return the parts that make a file, in their order. Raises InvalidField."""
    known = {part.part_id: part for part in stored}
    unknown = [part_id for part_id in asked if part_id not in known]
    if unknown:
        problem = f"{unknown[0][:100]!r} is no part of upload {upload.upload_id}"
        raise InvalidField(field="part_ids", problem=problem)
    if len(set(asked)) < len(asked):
        raise InvalidField(field="part_ids", problem="a part is named twice")
    found = sum(known[part_id].size_bytes for part_id in asked)
    if found != upload.size_bytes:
        problem = f"the parts have {found} bytes, the upload was announced with {upload.size_bytes}"
        raise InvalidField(field="part_ids", problem=problem)
    return [known[part_id] for part_id in asked]
