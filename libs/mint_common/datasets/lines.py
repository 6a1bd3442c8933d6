"""Lines of a stream of bytes, numbered from 1, in bounded memory."""

from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 1 << 20

BOM = b"\xef\xbb\xbf"

FileLine = tuple[int, bytes | None]
"""A line's number and bytes: None, of which nothing is kept, for more than `MAX_LINE_BYTES`."""


def lines_of(chunks: Iterable[bytes]) -> Iterator[FileLine]:
    """Yield the lines of a whole stream."""
    reader = LineReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.finish()


class LineReader:
    """Cuts chunks into lines that end with LF, CRLF or the end of the stream.

    Neither line ends nor a byte order mark at the beginning are part of a line. Lines before ``first_line``
    are counted, not cut.
    """

    def __init__(self, *, first_line: int = 1) -> None:
        self._rest = b""
        self._number = 0
        self._first_line = first_line
        self._is_skipping = False

    def feed(self, chunk: bytes) -> Iterator[FileLine]:
        """Yield the lines that end in this chunk, which follows the earlier ones.

        Lines are cut one by one; do not feed again before all were read.
        """
        data, start = self._rest + chunk, 0
        self._rest = b""
        if self._number + data.count(b"\n") < self._first_line - 1:
            start = self._pass_over(data)
        while (end := data.find(b"\n", start)) >= 0:
            number, line = self._next(data[start:end])
            start = end + 1
            if number >= self._first_line:
                yield number, line
        rest = data[start:]
        if self._is_skipping or len(rest) > MAX_LINE_BYTES + len(BOM) + 1:
            self._is_skipping, rest = True, b""
        self._rest = rest

    def finish(self) -> Iterator[FileLine]:
        """Yield the last line, if it has no end."""
        if self._rest or self._is_skipping:
            number, line = self._next(self._rest)
            if number >= self._first_line:
                yield number, line
        self._rest = b""

    def _pass_over(self, data: bytes) -> int:
        """Count all lines that end in the data; return where the last one ends."""
        ended = data.count(b"\n")
        self._number += ended
        self._is_skipping = self._is_skipping and not ended
        return data.rfind(b"\n") + 1

    def _next(self, line: bytes) -> FileLine:
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(BOM)
        line = line.removesuffix(b"\r")
        is_too_long = self._is_skipping or len(line) > MAX_LINE_BYTES
        self._is_skipping = False
        return self._number, None if is_too_long else line
