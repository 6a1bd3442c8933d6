"""Previews of a file's rows."""

from collections.abc import Iterable

from mint_common.datasets import Method, RenderedRow, Rendering, Repeats, RowLine
from mint_common.datasets.lines import FileLine, LineReader
from mint_common.errors import InvalidField
from mint_common.file_requests import Preview, PreviewExample, PreviewRow
from mint_common.ids import BaseName
from services.rollout.core.files.records import FileRecord

MAX_BYTES = 4 << 20
"""Maximum bytes of the previewed rows together."""
MAX_TOKENS = 1 << 18
"""Approximate maximum tokens of a preview."""


def check_is_rows(file: FileRecord, *, field: str = "file") -> None:
    """Refuse a file that was not checked as rows. Raises InvalidField."""
    if file.format is None:
        problem = f"was uploaded for {file.purpose}; rows are uploaded for fine-tune"
        raise InvalidField(field=field, problem=problem)


class RowsFrom:
    """Reads a file in chunks and keeps the first rows at or after a line, up to a number and a size."""

    def __init__(self, *, first_line: int, count: int) -> None:
        self.rows: list[RowLine] = []
        self._lines = LineReader(first_line=first_line)
        self._count = count
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> bool:
        """Read the next bytes; return whether more are needed. A chunk's cost grows with its lines."""
        return self._take(self._lines.feed(chunk))

    def finish(self) -> list[RowLine]:
        """Return the rows of a file that was fed to its end."""
        self._take(self._lines.finish())
        return self.rows

    def _take(self, lines: Iterable[FileLine]) -> bool:
        for number, line in lines:
            if not line or not line.strip():
                continue
            self._size_bytes += len(line)
            if self.rows and self._size_bytes > MAX_BYTES:
                return False
            self.rows.append(RowLine(line=number, data=line))
            if len(self.rows) == self._count:
                return False
        return True


def preview(base: BaseName, method: Method, rendering: Rendering, *, shared: Repeats | None) -> Preview:
    """Return the preview of rendered rows."""
    return Preview(
        base=base,
        method=method,
        max_tokens=rendering.max_tokens,
        rows=tuple(_row(row) for row in rendering.rows),
        problems=rendering.problems,
        left_out=rendering.left_out,
        shared=shared,
    )


def _row(row: RenderedRow) -> PreviewRow:
    examples = tuple(
        PreviewExample(  # field by field: `asdict` would copy every token
            side=example.side,
            text=example.text,
            tokens=example.tokens,
            texts=example.texts,
            trained=example.trained,
            trained_count=example.trained_count,
        )
        for example in row.examples
    )
    return PreviewRow(line=row.line, examples=examples, label=row.label)
