"""The one strict reading of a request's JSON body.

Invariant: every JSON parser reads an accepted body alike. Refused are bodies that are not UTF-8 or have a
byte order mark, a number beyond a float's range, half of a surrogate pair, or an object that names a key
twice. A body that nests too deep, or has too many lists and objects, is refused before it is decoded.
"""

from itertools import accumulate
from typing import Any

import msgspec

from mint_common.errors import InvalidField

MAX_DEPTH = 64
"""Maximum nesting of a body: vLLM's own limit of a schema."""
MAX_NESTED = 20_000
"""Maximum number of lists and objects in a body: an engine reads one in about 10 us."""
_FEW = 2


def read_body(body: bytes) -> dict[str, Any]:
    """Return a request's JSON object. Raises InvalidField."""
    punctuation = None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        punctuation = _punctuation(body)
        _check_nesting(punctuation, field="body")
    read = decode_object(body)
    if body.count(b":") > len(read):
        _check_keys(read, punctuation or _punctuation(body), field="body")
    return read


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body that was read strictly before. Raises InvalidField."""
    try:
        read = msgspec.json.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidField(field=_field_out_of_range(body), problem="has a number out of range") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(field="body", problem=f"is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise InvalidField(field="body", problem="must be a JSON object")
    return read


def read_text(text: str, *, field: str) -> Any:
    """Return the JSON that a field's text holds. Raises InvalidField."""
    try:
        read = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidField(field=field, problem=f"is not JSON: {error}") from error
    _check_keys(read, _punctuation(text.encode()), field=field)
    return read


def count_nested(text: bytes, *, field: str) -> int:
    """Return how many lists and objects a JSON text has. Raises InvalidField when it nests too deep.

    In a text with at most two brackets, those within its own texts count as well.
    """
    count = text.count(b"[") + text.count(b"{")
    return count if count <= _FEW else _check_nesting(_punctuation(text), field=field)


def check_nested(count: int) -> None:
    """Refuse more lists and objects than a body may have. Raises InvalidField."""
    if count > MAX_NESTED:
        raise InvalidField(field="body", problem=f"has more than {MAX_NESTED} lists and objects")


def _check_nesting(punctuation: bytes, *, field: str) -> int:
    """Return how many lists and objects there are. Raises InvalidField."""
    count = punctuation.count(b"[") + punctuation.count(b"{")
    check_nested(count)
    if max(accumulate(map(_STEPS.__getitem__, punctuation)), default=0) > MAX_DEPTH:
        raise InvalidField(field=field, problem=f"nests deeper than {MAX_DEPTH} levels")
    return count


def _punctuation(text: bytes) -> bytes:
    """Return the brackets and colons of JSON outside of strings."""
    # Without escapes every quote begins or ends a text.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    return b"".join(plain.split(b'"')[::2])


_OTHERS = bytes(set(range(256)) - set(b'[]{}:"'))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(":"): 0}


def _check_keys(read: object, punctuation: bytes, *, field: str) -> None:
    """Refuse JSON whose text has more keys than its objects have."""
    if punctuation.count(b":") > _count_keys(read):
        raise InvalidField(field=field, problem="has an object that names a key twice")


def _count_keys(value: object) -> int:
    """Return how many keys all objects of a JSON value have."""
    count, waiting = 0, [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            count += len(part)
            waiting += [each for each in part.values() if each.__class__ in _NESTED]
        elif isinstance(part, list):
            waiting += [each for each in part if each.__class__ in _NESTED]
    return count


_NESTED = {dict, list}


def _field_out_of_range(body: bytes) -> str:
    """Return the field of a body in which a number is out of range."""
    for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
        try:
            msgspec.json.decode(raw)
        except msgspec.ValidationError:
            return name[:200] or "body"
    return "body"
