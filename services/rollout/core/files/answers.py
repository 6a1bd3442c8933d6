"""Files and uploads as the OpenAI API shows them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from mint_common.json_types import JsonObject
from services.rollout.core.files.records import FileRecord, PartRecord, UploadRecord

T = TypeVar("T")


def file_answer(file: FileRecord) -> JsonObject:
    """Return a ``file``. It was checked before it was stored, so it is processed."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def upload_answer(upload: UploadRecord, file: FileRecord | None) -> JsonObject:
    """Return an ``upload``, with its file once it is completed."""
    return {
        "id": upload.upload_id,
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_at),
        "expires_at": int(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if file is None else file_answer(file),
    }


def part_answer(part: PartRecord) -> JsonObject:
    """Return an ``upload.part``."""
    return {
        "id": part.part_id,
        "object": "upload.part",
        "created_at": int(part.created_at),
        "upload_id": part.upload_id,
    }


def page_answer(items: Sequence[T], show: Callable[[T], JsonObject], *, limit: int) -> JsonObject:
    """Return a page of a list. ``items`` has one more than ``limit`` when there are more."""
    data = [show(item) for item in items[:limit]]
    ids = [item["id"] for item in data]
    return {
        "object": "list",
        "data": data,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": len(items) > limit,
    }
