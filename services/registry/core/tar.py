"""A streaming reader of untrusted tar archives: plain files of one folder, nothing else.

Invariants: any bytes yield parts of files or raise UploadRefused; at most a header of 512 bytes and one small
extension are buffered; no name contains a path.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mint_common.uploads import UploadReason
from services.registry.core.uploads import refused

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 16
_NUMBER = re.compile(rb" *[0-7]+[ \0]*")
_LINKS = {b"1": "hard link", b"2": "symbolic link"}
_EXTENSIONS = {b"x", b"g"}
_REDIRECTING = {"path", "linkpath", "GNU.sparse.name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBegins:
    """A file of this size follows."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """The next bytes of the file that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnds:
    """The file that began last is complete."""


Event = FileBegins | FilePart | FileEnds


class TarReader:
    """Reads one archive; `feed` it, then `finish`."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._left = 0
        self._pad = 0
        self._extension: bytearray | None = None
        self._is_over = False
        self._seen = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events of the next bytes. Raises UploadRefused."""
        self._rest += chunk
        while not self._is_over and (event := self._step()) is not None:
            yield from event
        if self._is_over:
            self._rest.clear()

    def finish(self) -> None:
        """End the archive. Raises UploadRefused when it is truncated."""
        if self._left or self._pad or self._extension is not None or (self._rest and not self._is_over):
            raise refused(UploadReason.NOT_TAR, "the archive is cut off")
        if not self._seen:
            raise refused(UploadReason.NOT_TAR, "the body is empty")

    def _step(self) -> tuple[Event, ...] | None:
        """Return the next events, or None when more bytes are needed."""
        if self._left:
            return self._take_data()
        if self._pad:
            skipped = min(self._pad, len(self._rest))
            del self._rest[:skipped]
            self._pad -= skipped
            return () if skipped else None
        if len(self._rest) < BLOCK:
            self._check_start()
            return None
        header = bytes(self._rest[:BLOCK])
        del self._rest[:BLOCK]
        return self._begin(header)

    def _take_data(self) -> tuple[Event, ...] | None:
        data = bytes(self._rest[: self._left])
        if not data:
            return None
        del self._rest[: len(data)]
        self._left -= len(data)
        if self._extension is not None:
            self._extension += data
            if not self._left:
                _check_extension(bytes(self._extension))
                self._extension = None
            return ()
        part = FilePart(data=data)
        return (part,) if self._left else (part, FileEnds())

    def _check_start(self) -> None:
        if not self._seen and len(self._rest) >= 4:
            if self._rest[:2] == b"\x1f\x8b":
                raise refused(UploadReason.NOT_TAR, "the body is gzip")
            if self._rest[:4] == b"PK\x03\x04":
                raise refused(UploadReason.NOT_TAR, "the body is a zip archive")

    def _begin(self, header: bytes) -> tuple[Event, ...]:
        if not any(header):
            if not self._seen:
                raise refused(UploadReason.NOT_TAR, "the archive is empty")
            self._is_over = True
            return ()
        name, size, kind = _read_header(header)
        self._seen = True
        self._left, self._pad = size, -size % BLOCK
        if kind in _EXTENSIONS:
            if size > MAX_EXTENSION_BYTES:
                raise refused(UploadReason.UNSAFE_ARCHIVE, f"an extended header has {size} bytes")
            self._extension = bytearray() if size else None
            return ()
        if kind == b"5" and name in {"", "."} and not size:
            return ()
        if kind in _LINKS:
            raise refused(UploadReason.LINK, f"{name[:100]!r} is a {_LINKS[kind]}")
        if kind not in {b"0", b"\0"}:
            raise refused(UploadReason.UNSAFE_ARCHIVE, f"{name[:100]!r} is not a plain file")
        if "/" in name or "\\" in name or name in {"", ".", ".."}:
            raise refused(UploadReason.TRAVERSAL, f"{name[:100]!r} is not in the archive's own folder")
        begin = FileBegins(name=name, size_bytes=size)
        return (begin,) if size else (begin, FileEnds())


def _read_header(header: bytes) -> tuple[str, int, bytes]:
    expected = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    checksum = header[148:156]
    if not _NUMBER.fullmatch(checksum) or int(checksum.strip(b" \0"), 8) != expected:
        problem = "the body is gzip" if header[:2] == b"\x1f\x8b" else "a header's checksum is wrong"
        raise refused(UploadReason.NOT_TAR, problem)
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    text = name.decode("utf-8", "backslashreplace")
    while text.startswith("./"):
        text = text[2:]
    return text, _size(header[124:136]), header[156:157]


def _size(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's form for files above 8 GiB
        return int.from_bytes(field[4:], "big")
    if not _NUMBER.fullmatch(field):
        raise refused(UploadReason.NOT_TAR, "a file's size is not a number")
    return int(field.strip(b" \0"), 8)


def _check_extension(data: bytes) -> None:
    """Accept times and owners; refuse records that redirect a path or change a size."""
    for line in data.split(b"\n"):
        key = line.partition(b" ")[2].partition(b"=")[0].decode("utf-8", "replace")
        if key in _REDIRECTING or key == "size" or key.startswith("GNU.sparse"):
            raise refused(UploadReason.UNSAFE_ARCHIVE, f"an extended header sets {key!r}")
