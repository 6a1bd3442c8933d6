"""Bounds of schemas, patterns and grammars: an engine compiles them, and one that counts far holds it up.

A schema of ``{"minItems": 1000000000}`` stops an engine for everybody, so counts are bounded before it.
"""

import math
import re

import msgspec

from mint_common.errors import InvalidField

MAX_COUNT = 1000
"""Of one item, character or property that is repeated."""
MAX_PRODUCT = 100_000
"""Of all counts of patterns and grammars: they may stand inside one another."""
_COUNT = re.compile(rb'"(?:min|max)(?:Items|Length|Properties|Contains)":([0-9][0-9.eE+]*)')
_REPEAT = re.compile(rb"\{(\d*)(?:,(\d*))?\}")
_DIGITS = 20
"""More of them need not be read: the number is too large."""


def check_structure(field: str, value: object) -> None:
    """Refuse a JSON value that says how an answer is built, if it counts too far. Raises InvalidField."""
    # Encoded anew: no escape hides a name, nor white space a colon.
    text = msgspec.json.encode(value)
    for said in _COUNT.findall(text):
        _check(field, float(said))
    counts = [int((high or low or b"1")[:_DIGITS]) for low, high in _REPEAT.findall(text)]
    for count in counts:
        _check(field, count)
    if math.prod(max(1, count) for count in counts) > MAX_PRODUCT:
        raise InvalidField(field=field, problem=f"repeats more than {MAX_PRODUCT} times in all")


def _check(field: str, count: float) -> None:
    if not count <= MAX_COUNT:
        raise InvalidField(field=field, problem=f"may count to {MAX_COUNT} at most, got {count:g}")
