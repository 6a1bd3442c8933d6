"""The rows of one source, converted one after the other to rows of one format."""

from collections.abc import Collection, Mapping
from typing import Any

from mint_client.core.layouts import PROMPTS, RowLayout, layout_of, mapped
from mint_client.core.row_columns import Columns, Row
from mint_common.datasets import RowProblem
from mint_common.errors import InvalidField

_SHOWN = 8
"""Maximum columns that a message repeats."""


class Conversion:
    """Converts the rows of a source, all of the layout that its first row has.

    ``renamed`` has the source's columns by the names that layouts give them; without it columns are read by
    their own names. A strict conversion refuses columns that are not used.
    """

    def __init__(self, renamed: Mapping[str, str], *, is_strict: bool) -> None:
        self.layout: RowLayout | None = None
        self.left_out: dict[str, None] = {}
        self._first = 0
        self._names = frozenset[str]()
        self._renamed = renamed
        self._is_strict = is_strict

    def convert(self, number: int, row: Row) -> Row:
        """Return a row as a row of MinT. Raises RowProblem."""
        found, rest = mapped(row, self._renamed) if self._renamed else (row, {})
        columns = Columns(found, rest, self._renamed)
        converted = self._layout(number, found).convert(columns)
        unused = columns.unused()
        if unused and self._is_strict:
            raise RowProblem("unknown_field", f"not used, and --strict is given: {_shown(sorted(unused))}")
        in_order = [name for name in row if name in unused] + sorted(unused - row.keys())
        self.left_out.update(dict.fromkeys(in_order))
        return converted

    def _layout(self, number: int, row: Mapping[str, Any]) -> RowLayout:
        """Return the layout of a row, which is that of the rows before. Raises RowProblem."""
        present = {name for name, value in row.items() if value is not None}
        layout = (None if self._renamed else layout_of(present)) or layout_of(row)
        if self.layout is None:
            if layout is None:
                raise RowProblem("unknown_format", self._told_unknown(row))
            self.layout, self._first, self._names = layout, number, frozenset(row)
        elif layout in (None, PROMPTS) or layout.within(self.layout):
            missing = self.layout.missing_in(row, others=self._names)
            if missing:
                raise RowProblem("missing_field", f"column {missing} is missing; the row has {_shown(row)}")
        elif layout is not self.layout:
            problem = (
                f"the row is {layout.name}, row {self._first} is {self.layout.name}: a file has one layout"
            )
            raise RowProblem("mixed_formats", problem)
        return self.layout

    def _told_unknown(self, row: Mapping[str, Any]) -> str:
        if self._renamed:
            return f"no layout has the columns of --map ({_shown(self._renamed)})"
        example = "--map prompt=COLUMN,completion=COLUMN"
        return f"no layout has its columns ({_shown(row)}); say which to train on, as in {example}"


def _shown(names: Collection[str]) -> str:
    shown = ", ".join(f"'{name[:40]}'" for name in list(names)[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown or "none"


def read_map(text: str) -> dict[str, str]:
    """Return the columns of ``--map prompt=question,completion=answer`` by their new names."""
    found: dict[str, str] = {}
    for each in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = each.partition("=")
        if not (name and equals and column) or name in found:
            problem = (
                f"is like prompt=question,completion=answer: the name that a layout has first, got {each!r}"
            )
            raise InvalidField(field="--map", problem=problem)
        found[name] = column
    return found
