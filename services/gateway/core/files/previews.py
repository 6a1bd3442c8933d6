"""Which rows of a file are previewed, and what is shown of them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from mint_common.datasets import Method, Problem, RenderedRow, Rendering, RowLine
from mint_common.datasets.lines import LineReader, LineTooLong
from mint_common.errors import InvalidField
from mint_common.ids import BaseName
from services.gateway.core.files.records import FileRecord

MAX_ROWS = 20
MAX_BYTES = 4 << 20
"""Of the previewed rows together."""
MAX_TOKENS = 1 << 18
"""Of a preview, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewExample:
    """One sequence. ``trained`` has [start, end) of the tokens that are trained."""

    side: str
    text: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    trained: tuple[tuple[int, int], ...]
    trained_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRow:
    """The examples of a row; ``label`` is a KTO row's."""

    line: int
    examples: tuple[PreviewExample, ...]
    label: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Rows as they are trained. Nothing is cut: a row with an example over ``max_tokens`` is a problem.

    ``left_out`` are lines that would have made the preview too large.
    """

    base: BaseName
    method: Method
    max_tokens: int
    rows: tuple[PreviewRow, ...]
    problems: tuple[Problem, ...]
    left_out: tuple[int, ...]


def check_is_rows(file: FileRecord) -> None:
    """Refuse a file that was not checked as rows. Raises InvalidField."""
    if file.format is None:
        problem = f"was uploaded for {file.purpose}; rows are uploaded for fine-tune"
        raise InvalidField(field="file", problem=problem)


async def rows_from(chunks: AsyncIterator[bytes], *, first_line: int, count: int) -> list[RowLine]:
    """Return the first rows at or after a line, as many as are asked for and fit."""
    reader = LineReader()
    rows: list[RowLine] = []
    size_bytes = 0
    async for lines in _batches(reader, chunks):
        for number, line in lines:
            if number < first_line or isinstance(line, LineTooLong) or not line.strip():
                continue
            size_bytes += len(line)
            if len(rows) == count or (rows and size_bytes > MAX_BYTES):
                return rows
            rows.append(RowLine(line=number, data=line))
    return rows


async def _batches(
    reader: LineReader, chunks: AsyncIterator[bytes]
) -> AsyncIterator[list[tuple[int, bytes | LineTooLong]]]:
    async for chunk in chunks:
        yield list(reader.feed(chunk))
    yield list(reader.finish())


def preview(base: BaseName, method: Method, rendering: Rendering) -> Preview:
    """Return what is shown of rendered rows."""
    return Preview(
        base=base,
        method=method,
        max_tokens=rendering.max_tokens,
        rows=tuple(_row(row) for row in rendering.rows),
        problems=rendering.problems,
        left_out=rendering.left_out,
    )


def _row(row: RenderedRow) -> PreviewRow:
    examples = tuple(
        PreviewExample(
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
