"""One line of a file as a row. Raises RowProblem for whatever it holds."""

import re
from typing import Any, get_args

import msgspec

from mint_common.datasets.formats import Format
from mint_common.datasets.lines import MAX_LINE_BYTES
from mint_common.datasets.rows import MAX_DEPTH, TYPES, Role, Row, RowProblem, check_row, is_deep

_SHOWN = 40
"""Characters of a line that a message repeats."""

_decode = msgspec.json.Decoder().decode
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_CHOICES = {"role": get_args(Role), "type": ("function",)}
"""Values of fields that have a few."""
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def decode_line(line: bytes) -> dict[str, Any]:  # JSON
    """Return the JSON object of a line. Raises RowProblem."""
    try:
        found = _decode(line)
    except RecursionError:
        raise _too_deep() from None
    # msgspec raised UnicodeDecodeError for text that is not UTF-8 until 0.22, and DecodeError since.
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not _is_utf8(line):
            raise RowProblem("invalid_utf8", "the line is not UTF-8") from None
        raise RowProblem("invalid_json", f"the line is not JSON ({error}); {_beginning(line)}") from None
    if not isinstance(found, dict):
        raise RowProblem("not_an_object", f"the line is not a JSON object; {_beginning(line)}")
    if is_deep(line, found):
        raise _too_deep()
    return found


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def told_format(row: dict[str, Any]) -> Format:  # JSON
    """Return the format of a row's keys, also of an incomplete row.

    Raises RowProblem when they match none.
    """
    if "messages" in row:
        return Format.REWARD if _ends_with_user(row["messages"]) else Format.CHAT
    for keys, found in _TOLD_BY:
        if not keys.isdisjoint(row):
            return found
    shown = ", ".join(repr(key[:_SHOWN]) for key in list(row)[:5]) or "none"
    problem = f"no format has its keys ({shown}); formats begin with messages, prompt, input, text"
    raise RowProblem("unknown_format", problem)


_TOLD_BY = (
    (frozenset({"input", "preferred_output", "non_preferred_output"}), Format.PAIRS),
    (frozenset({"chosen", "rejected"}), Format.PREFERENCE),
    (frozenset({"label"}), Format.KTO),
    (frozenset({"prompt", "completion"}), Format.COMPLETION),
    (frozenset({"text"}), Format.TEXT),
)


def _ends_with_user(messages: object) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "user"


def typed_row(row: dict[str, Any], kind: Format) -> Row:  # JSON
    """Return a decoded row as its type, checked. Raises RowProblem."""
    try:
        found = msgspec.convert(row, TYPES[kind])
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    check_row(found)
    return found


def _invalid(problem: str, kind: Format) -> RowProblem:
    found = _AT.fullmatch(problem)
    assert found is not None  # it matches anything
    what, where = found["what"], (found["where"] or "")[:200]
    if missing := _MISSING.fullmatch(what):
        name = f"{where}.{missing[1]}" if where else missing[1]
        return RowProblem("missing_field", f"{name} is missing")
    if unknown := _UNKNOWN.fullmatch(what):
        field = f"{unknown[1][:_SHOWN]!r}"
        return RowProblem("unknown_field", f"{where or f'a {kind} row'} has no field {field}")
    choices = _CHOICES.get(where.rpartition(".")[2])
    if choices and (wrong := _NO_CHOICE.fullmatch(what)):
        return RowProblem("invalid_value", f"{where}: {wrong[1][:_SHOWN]} is none of {', '.join(choices)}")
    what = what[:1].lower() + what[1:]
    return RowProblem("invalid_value", f"{where}: {what[:200]}" if where else what[:200])


def too_long() -> RowProblem:
    """Return the problem of a row that is too large."""
    return RowProblem("line_too_long", f"the row has more than {MAX_LINE_BYTES} bytes as a line of JSON")


def _too_deep() -> RowProblem:
    return RowProblem("too_deep", f"objects and lists are within each other more than {MAX_DEPTH} deep")


def _beginning(line: bytes) -> str:
    return f"it begins with {line[:_SHOWN].decode(errors='ignore')!r}"
