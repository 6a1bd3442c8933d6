"""Reports about a file of rows."""

from dataclasses import dataclass

from mint_common.datasets.formats import Format

MAX_PROBLEMS = 100
"""Maximum number of problems that a report lists; it counts all."""
MAX_PAIRS = 100
"""Maximum number of repeated rows that a report lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of a line, counted from 1."""

    line: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Rows that are equal to an earlier one, or to one of another file.

    ``count`` is how many there are; ``pairs`` has the first `MAX_PAIRS`, as (line, line that it repeats).
    """

    count: int
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """The check's result. A file can be trained on if ``count`` is 0.

    ``rows`` counts lines that are not blank; ``problems`` has the first `MAX_PROBLEMS` of ``count``.
    """

    format: Format | None
    rows: int
    count: int
    problems: tuple[Problem, ...]
    repeats: Repeats
