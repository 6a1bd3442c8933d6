"""JSON as it is typed: read in one pass that stops at the first thing wrong."""

from typing import TypeVar

import msgspec

from mint_common.errors import InvalidField

T = TypeVar("T")


def read_json(body: bytes, shape: type[T]) -> T:
    """Return JSON as what it should be; fields that are not known are ignored unless ``shape`` forbids them.

    Raises InvalidField naming the path.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = path.strip("`").strip(".")
        raise InvalidField(field=where[:200] or "body", problem=problem[:500]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(field="body", problem=f"is no JSON: {error}") from error
