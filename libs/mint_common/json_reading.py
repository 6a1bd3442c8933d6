"""JSON as a type: read in one pass that stops at the first thing wrong, which its error names."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from mint_common.errors import InvalidField

T = TypeVar("T")


def read_json(body: bytes, shape: type[T], *, decode: Callable[..., T] = msgspec.json.decode) -> T:
    """Return a body as a type; unknown fields are ignored unless ``shape`` forbids them. Raises InvalidField.

    ``decode`` reads another format that msgspec knows.
    """
    try:
        return decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _named(str(error), "") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(field="body", problem=f"is not JSON: {error}") from error


def convert_json(value: object, shape: Any, *, field: str = "") -> Any:  # what `msgspec.convert` takes
    """Return a decoded value as a type. Raises InvalidField with a path that begins at ``field``."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _named(str(error), field) from error


def _named(message: str, field: str) -> InvalidField:
    """Return msgspec's complaint as one about a field."""
    problem, _, path = message.partition(" - at `$")
    where = (field + path).strip("`.")
    words = problem.split("`")
    name = words[1] if len(words) > 1 else ""
    if problem.startswith("Object contains unknown field"):
        where, problem = f"{where}.{name}".lstrip("."), "is not supported here"
    elif problem.startswith("Object missing required field"):
        where, problem = f"{where}.{name}".lstrip("."), "is required"
    elif problem.startswith("Invalid enum value") and where.endswith("type"):
        problem = f"{problem}: only text is taken, and tools that the client carries out"
    return InvalidField(field=where[:200] or "body", problem=problem[:500])
