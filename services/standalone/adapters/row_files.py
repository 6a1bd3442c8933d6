"""A local file of rows, on its way to a gateway: whole, or in parts when it is large; once."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mint_common.errors import MintError
from services.standalone.adapters.public_api import Json, Progress, PublicApi, path_of

PART_BYTES = 64 << 20
"""The most that a part of an upload may have; a larger file comes in parts."""
_PURPOSE = "fine-tune"
_CHUNK_BYTES = 1 << 20
_PAGE = 1000

Sent = Callable[[int], None]
"""Told how many bytes of a part are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """A file that a gateway has; ``was_there``: from an earlier time, and nothing was sent."""

    file_id: str
    was_there: bool


def send_rows(api: PublicApi, path: Path, progress: Progress) -> SentFile:
    """Send a file of rows, unless the gateway has one of this name and content. Raises RowsRefusedError.

    An upload in parts that breaks off is given up, so that its parts are erased.
    """
    size_bytes, sha256 = path.stat().st_size, _sha256(path)
    for file in _files_like(api, path.name, size_bytes):
        if api.get(path_of("files", file["id"]))["sha256"] == sha256:
            return SentFile(file_id=file["id"], was_there=True)
    with path.open("rb") as file:
        if size_bytes > PART_BYTES:
            return SentFile(file_id=_send_parts(api, path.name, file, size_bytes, progress), was_there=False)
        part = _part(file, 0, size_bytes, _behind(0, size_bytes, progress))
        made = api.send_form("/files", "file", path.name, part, purpose=_PURPOSE)
    return SentFile(file_id=made["id"], was_there=False)


def _send_parts(api: PublicApi, name: str, file: io.BufferedReader, size: int, progress: Progress) -> str:
    asked = {"filename": name, "purpose": _PURPOSE, "bytes": size, "mime_type": "application/jsonl"}
    upload = path_of("uploads", api.post_openai("/uploads", asked)["id"])
    parts = []
    try:
        for start in range(0, size, PART_BYTES):
            part = _part(file, start, min(PART_BYTES, size - start), _behind(start, size, progress))
            parts.append(api.send_form(f"{upload}/parts", "data", "part", part)["id"])
        return str(api.post_openai(f"{upload}/complete", {"part_ids": parts})["file"]["id"])
    except BaseException:
        with suppress(MintError):
            api.post_openai(f"{upload}/cancel")
        raise


def _behind(start: int, total: int, progress: Progress) -> Sent:
    return lambda sent: progress(start + sent, total)


def _files_like(api: PublicApi, name: str, size_bytes: int) -> Iterator[Json]:
    """Yield the newest files for training that have a name and a size, and stay until they are deleted."""
    page = api.get_openai("/files", {"purpose": _PURPOSE, "limit": _PAGE})
    for file in page["data"]:
        if (file["filename"], file["bytes"], file["expires_at"]) == (name, size_bytes, None):
            yield file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part(file: io.BufferedReader, start: int, size_bytes: int, report: Sent) -> io.BufferedReader:
    """Return some of a file, as a file."""
    return io.BufferedReader(_FilePart(file, start, size_bytes, report), _CHUNK_BYTES)


class _FilePart(io.RawIOBase):
    """Some of a file, which tells how much of it has been read; httpx reads it as it sends it."""

    def __init__(self, file: io.BufferedReader, start: int, size_bytes: int, report: Sent) -> None:
        self._file, self._start, self._size_bytes, self._report = file, start, size_bytes, report
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: httpx goes to the end to know the length."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place within the part."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:  # anything with room for bytes
        """Read what follows."""
        self._file.seek(self._start + self._at)
        count = self._file.readinto(memoryview(buffer)[: self._size_bytes - self._at])
        self._at += count
        self._report(self._at)
        return count
