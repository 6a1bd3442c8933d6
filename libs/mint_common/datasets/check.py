"""The check of a whole file, as its bytes come: format, problems by line, repeated rows.

Invariant: memory is bounded, whatever comes: one line, the first problems, 20 bytes a row.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from mint_common.datasets.formats import Format
from mint_common.datasets.lines import MAX_LINE_BYTES, FileLine, LineReader
from mint_common.datasets.reading import decode_line, told_format, too_long, typed_row
from mint_common.datasets.repeats import RowDigests
from mint_common.datasets.report import MAX_PROBLEMS, DatasetReport, Problem
from mint_common.datasets.rows import ChatRow, RowProblem

MAX_LINES = 2_000_000
"""Maximum lines of a file, blank ones included; lines beyond it are not read."""
CHUNK_BYTES = 1 << 20


class DatasetCheck:
    """Checks a file given in chunks of any size, and reports its format, rows and problems."""

    def __init__(self) -> None:
        self.digests = RowDigests()
        self._lines = LineReader()
        self._format: Format | None = None
        self._format_line = 0
        self._is_over = False
        self._rows = 0
        self._count = 0
        self._problems: list[Problem] = []
        self._unanswered: list[int] | None = []  # lines of all rows so far, if they may lack their answer

    def feed(self, chunk: bytes) -> bool:
        """Check the next bytes; return whether more are needed for the report."""
        return not self._is_over and self._take_all(self._lines.feed(chunk))

    def finish(self) -> DatasetReport:
        """Return the report; ends the input."""
        if not self._is_over:
            self._take_all(self._lines.finish())
        if not self._rows and not self._is_over:
            self._note(1, RowProblem("no_rows", "the file has no rows"))
        return DatasetReport(
            format=self._format,
            rows=self._rows,
            count=self._count,
            problems=tuple(self._problems),
            repeats=self.digests.repeats(),
        )

    def _take_all(self, lines: Iterable[FileLine]) -> bool:
        return all(self.take(number, line) for number, line in lines)

    def take(self, number: int, line: bytes | RowProblem | None) -> bool:
        """Check a line, or note the problem that there is instead; return whether more lines are read."""
        if number > MAX_LINES:
            self._is_over = True
            problem = f"a file may have {MAX_LINES} lines at most, blank ones too"
            self._note(number, RowProblem("too_many_rows", problem))
            return False
        if isinstance(line, bytes) and not line.strip():
            return True
        self._rows += 1
        try:
            self._check(number, line)
        except RowProblem as problem:
            self._note(number, problem)
        return True

    def _check(self, number: int, line: bytes | RowProblem | None) -> None:
        if isinstance(line, RowProblem):
            raise line
        if line is None or len(line) > MAX_LINE_BYTES:
            raise too_long()
        row = decode_line(line)
        found = told_format(row)
        if self._format is None:
            self._format, self._format_line = found, number
        if found == Format.CHAT and self._unanswered:
            self._format, self._format_line = found, number
            for earlier in self._unanswered:
                self._note(earlier, _no_answer())
        is_bare = found == Format.REWARD and row.keys() <= set(ChatRow.__struct_fields__)
        may_be_chats = is_bare and self._unanswered is not None and len(self._unanswered) < MAX_PROBLEMS
        self._unanswered = [*(self._unanswered or ()), number] if may_be_chats else None
        if (self._format, found) == (Format.CHAT, Format.REWARD):
            raise _no_answer()
        if found != self._format:
            problem = f"the row is {found}, line {self._format_line} is {self._format}: a file has one format"
            raise RowProblem("mixed_formats", problem)
        typed_row(row, found)
        self.digests.add(number, row)

    def _note(self, number: int, problem: RowProblem) -> None:
        self._count += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(line=number, code=problem.code, message=problem.message))


def _no_answer() -> RowProblem:
    return RowProblem("no_answer", "the last message is of role user, not assistant")


def check_file(path: Path) -> tuple[DatasetReport, RowDigests]:
    """Check a local file. Raises OSError."""
    with path.open("rb") as file:
        return check_stream(file)


def check_stream(file: IO[bytes]) -> tuple[DatasetReport, RowDigests]:
    """Check an open file from its current position, until the report is complete. Raises OSError."""
    check = DatasetCheck()
    while (chunk := file.read(CHUNK_BYTES)) and check.feed(chunk):
        pass
    return check.finish(), check.digests
