"""The columns of one row, read by name; what was not read is left out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mint_client.core.messages import (
    Message,
    from_text,
    is_conversation,
    kind_of,
    read_messages,
    read_tools,
    said_by,
)
from mint_common.datasets import RowProblem

Row = dict[str, Any]  # JSON
Found = Row | RowProblem
NumberedRows = Iterator[tuple[int, Found]]
"""Rows of a source, or what is wrong with one, by their line or their row in it, counted from 1."""
_SYSTEM = ("system", "system_prompt")


class Columns:
    """The columns that a row is converted from, and the rest, which only graders use.

    ``renamed`` has what columns are called in the source, where that is another name.
    """

    def __init__(self, row: Row, rest: Row, renamed: Mapping[str, str]) -> None:
        self._row = row
        self._renamed = renamed
        self._all = {**rest, **row}
        self._read: set[str] = set()
        self._unused_fields: set[str] = set()

    def unused(self) -> set[str]:
        """Return the columns, and fields of messages, that have a value and were not read."""
        present = {name for name, value in self._all.items() if value is not None}
        return (present - self._read) | self._unused_fields

    def others(self) -> Row:
        """Read all columns that were not read."""
        found = {name: value for name, value in self._all.items() if name not in self._read}
        self._read.update(found)
        return found

    def has(self, *names: str) -> str:
        """Return the first of some columns that is there and not null, or ""."""
        return next((name for name in names if self._row.get(name) is not None), "")

    def _named(self, names: Sequence[str]) -> str:
        """Return the first of some columns, better one that is null than one that is missing."""
        return self.has(*names) or next((name for name in names if name in self._row), names[0])

    def is_text(self, name: str) -> bool:
        """Return whether a column is anything but messages."""
        return not is_conversation(from_text(self._row.get(name)))

    def value(self, name: str) -> Any:
        """Read a column. Raises RowProblem if it is missing or null."""
        value = self._row.get(name)
        if value is None:
            told = self._renamed.get(name)
            found = f"{told} of --map {name}={told}" if told else name
            null = ": it is null" if name in self._row and not told else ""
            raise RowProblem("missing_field", f"column {found} is missing{null}")
        self._read.add(name)
        return value

    def text(self, *names: str) -> str:
        """Read the first of some columns as a text. Raises RowProblem."""
        name = self._named(names)
        value = self.value(name)
        if type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise RowProblem("invalid_value", f"column {name}: expected a text, got {kind_of(value)}")
        return value

    def optional(self, *names: str) -> str:
        """Read the first of some columns as a text, if there is one. Raises RowProblem."""
        return self.text(*names) if self.has(*names) else ""

    def messages(self, name: str) -> list[Message]:
        """Read a conversation, or the user's message that it consists of. Raises RowProblem."""
        value = from_text(self.value(name))
        if isinstance(value, str):
            return self.begun([said_by("user", value)])
        return self.begun(read_messages(name, value, self._unused_fields))

    def begun(self, messages: list[Message]) -> list[Message]:
        """Return a conversation that begins with the row's system message, unless it has one."""
        has_one = bool(messages) and messages[0].get("role") in {"system", "developer"}
        return messages if has_one else [*self.system(), *messages]

    def answer(self, *names: str) -> list[Message]:
        """Read the first of some columns as the assistant's: messages, or a text. Raises RowProblem."""
        name = self._named(names)
        value = from_text(self.value(name))
        if is_conversation(value):
            return read_messages(name, value, self._unused_fields)
        text = self.text(name)
        if not text.strip():
            raise RowProblem("no_answer", f"column {name} is empty")
        return [said_by("assistant", text)]

    def system(self) -> list[Message]:
        """Read the system message, if there is one."""
        text = self.optional(*_SYSTEM)
        return [said_by("system", text)] if text else []

    def has_system(self) -> bool:
        """Return whether the row has a system message beside its prompt."""
        return bool(self.has(*_SYSTEM))

    def beside(self) -> Row:
        """Read what a conversation may have beside its messages."""
        found: Row = {}
        if self._row.get("tools"):
            found["tools"] = read_tools(self.value("tools"))
        if self.has("parallel_tool_calls"):
            found["parallel_tool_calls"] = self.value("parallel_tool_calls")
        return found
