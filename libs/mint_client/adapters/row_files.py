"""Upload a local file of rows to a gateway once: whole, or in parts when it is large."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mint_client.adapters.public_api import Json, Progress, PublicApi, path_of
from mint_common.errors import MintError

PART_BYTES = 64 << 20
"""The most that a part of an upload may have, and that is held; a larger file comes in parts."""
_PURPOSE = "fine-tune"
_PAGE = 1000


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
        part = _next_part(file, size_bytes, progress)
        made = api.send_form("/files", "file", path.name, part, purpose=_PURPOSE)
    return SentFile(file_id=made["id"], was_there=False)


def _send_parts(api: PublicApi, name: str, file: IO[bytes], size: int, progress: Progress) -> str:
    asked = {"filename": name, "purpose": _PURPOSE, "bytes": size, "mime_type": "application/jsonl"}
    upload = path_of("uploads", api.post_openai("/uploads", asked)["id"])
    parts = []
    try:
        for _ in range(0, size, PART_BYTES):
            part = _next_part(file, size, progress)
            parts.append(api.send_form(f"{upload}/parts", "data", "part", part)["id"])
        return str(api.post_openai(f"{upload}/complete", {"part_ids": parts})["file"]["id"])
    except BaseException:
        with suppress(MintError):
            api.post_openai(f"{upload}/cancel")
        raise


def _files_like(api: PublicApi, name: str, size_bytes: int) -> Iterator[Json]:
    """Yield the newest files for training that have a name and a size, and stay until they are deleted."""
    page = api.get_openai("/files", {"purpose": _PURPOSE, "limit": _PAGE})
    for file in page["data"]:
        if (file["filename"], file["bytes"], file["expires_at"]) == (name, size_bytes, None):
            yield file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _next_part(file: IO[bytes], size_bytes: int, progress: Progress) -> "_FilePart":
    start = file.tell()
    return _FilePart(file.read(PART_BYTES), lambda sent: progress(start + sent, size_bytes))


class _FilePart(io.BytesIO):
    """A part of a file that reports how much of it has been read; httpx reads it as it sends it."""

    def __init__(self, data: bytes, report: Callable[[int], None]) -> None:
        super().__init__(data)
        self._report = report

    def read(self, size: int | None = -1, /) -> bytes:
        """Read what follows."""
        data = super().read(size)
        self._report(self.tell())
        return data
