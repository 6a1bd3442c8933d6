"""JSON as it is typed: read in one pass that stops at the first thing wrong."""

from typing import Any

import msgspec

from mint_common.errors import InvalidField


def read_json(body: bytes, shape: Any, *, field: str = "") -> Any:  # an instance of ``shape``
    """Return JSON as what it should be, a struct or a list of something.

    ``field`` is where the JSON itself stands. Raises InvalidField naming the path.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = (field + path.strip("`")).strip(".")
        raise InvalidField(field=where[:200] or "body", problem=problem[:500]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(field="body", problem=f"is no JSON: {error}") from error
