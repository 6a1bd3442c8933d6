"""Lines of a stream of bytes, numbered from 1, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineTooLong:
    """Stands for a line of more than `MAX_LINE_BYTES`, of which nothing is kept."""


TOO_LONG = LineTooLong()
NumberedLine = tuple[int, bytes | LineTooLong]


class LineReader:
    """Cuts chunks into lines that end with LF, CRLF or the end of the stream.

    Neither line ends nor a byte order mark at the beginning are part of a line.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._is_skipping = False

    def feed(self, chunk: bytes) -> Iterator[NumberedLine]:
        """Yield the lines that end in this chunk, which follows those before."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = b""
        for line in lines:
            yield self._next(line)
        if self._is_skipping or len(rest) > MAX_LINE_BYTES + len(_BOM) + 1:
            self._is_skipping, rest = True, b""
        self._rest = rest

    def finish(self) -> Iterator[NumberedLine]:
        """Yield the last line, if it has no end."""
        if self._rest or self._is_skipping:
            yield self._next(self._rest)
        self._rest = b""

    def _next(self, line: bytes) -> NumberedLine:
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(_BOM)
        line = line.removesuffix(b"\r")
        is_too_long = self._is_skipping or len(line) > MAX_LINE_BYTES
        self._is_skipping = False
        return self._number, TOO_LONG if is_too_long else line
