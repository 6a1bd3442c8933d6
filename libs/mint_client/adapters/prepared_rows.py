"""Prepares a source of rows for training: read, converted and checked, in a JSONL file that can be sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from mint_client.adapters.rows_source import open_source
from mint_client.core.conversion import Conversion
from mint_client.core.refusals import LocalFailureError
from mint_client.core.row_columns import Found, NumberedRows, Row
from mint_common.datasets import DatasetReport, Format, RowProblem, decode_line
from mint_common.datasets.check import DatasetCheck, check_file
from mint_common.datasets.lines import BOM
from mint_common.datasets.repeats import RowDigests

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows are read: columns by their new names, whether unused ones are refused, the number of rows."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    is_strict: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRows:
    """A source that was read; good rows are in ``path``, each at the line of its number.

    ``is_part``: there may be more rows, which were not asked for.
    """

    name: str
    kind: str
    layout: str
    left_out: tuple[str, ...]
    path: Path
    report: DatasetReport
    digests: RowDigests
    is_part: bool = False

    @property
    def format(self) -> Format:
        """Return the format of rows without problems."""
        assert self.report.format is not None, "a source without problems has rows"
        return self.report.format

    @property
    def count(self) -> int:
        """Return how many rows there are."""
        return self.report.rows

    def rows(self, count: int) -> list[tuple[int, Row]]:
        """Return the first rows with their numbers."""
        with self.path.open("rb") as file:
            lines = ((number, line.removeprefix(BOM)) for number, line in enumerate(file, 1))
            full = ((number, line) for number, line in lines if line.strip())
            return [(number, decode_line(line)) for number, line in islice(full, count)]


def prepare_rows(
    name: str, reading: Reading, *, folder: Path, progress: Callable[[int], None]
) -> PreparedRows:
    """Read a source, into a file of the folder unless it is one to send already.

    Raises OSError, InvalidField, ExtraMissingError, LocalFailureError.
    """
    source = open_source(name)
    if source.path is not None and not reading.renamed and reading.limit is None:
        report, digests = check_file(source.path)
        if not report.count:
            return PreparedRows(
                name=name,
                kind=source.kind,
                layout=str(report.format),
                left_out=(),
                path=source.path,
                report=report,
                digests=digests,
            )
    conversion = Conversion(reading.renamed, is_strict=reading.is_strict)
    check = DatasetCheck()
    path = folder / f"{source.stem}.jsonl"
    with path.open("wb") as file:
        written = 0
        for number, found in islice(_located(source.rows), reading.limit):
            line = _line(conversion, number, found)
            if not check.take(number, line):
                break
            if isinstance(line, bytes):
                file.write(b"\n" * (number - written - 1) + line + b"\n")
                written = number
            progress(number)
    report = check.finish()
    return PreparedRows(
        name=name,
        kind=source.kind,
        layout=conversion.layout.name if conversion.layout else "",
        left_out=tuple(conversion.left_out),
        path=path,
        report=report,
        digests=check.digests,
        is_part=report.rows == reading.limit,
    )


def _located(rows: NumberedRows) -> NumberedRows:
    """Yield rows; an error that ends them names the last row before it."""
    number = 0
    try:
        for number, found in rows:
            yield number, found
    except LocalFailureError as error:
        if not number:
            raise
        problem = f"after row {number:,}: {error.problem}"
        raise LocalFailureError(what=error.what, problem=problem) from error


def _line(conversion: Conversion, number: int, found: Found) -> bytes | RowProblem:
    try:
        return found if isinstance(found, RowProblem) else _encode(conversion.convert(number, found))
    except RowProblem as problem:
        return problem
    except TypeError as error:
        return RowProblem("invalid_value", f"a value cannot be written as JSON: {error}")
