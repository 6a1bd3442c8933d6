"""Limits of the structures that an engine compiles: schemas, patterns, grammars and choices.

A schema of ``{"minItems": 1000000000}`` stops an engine for everybody, so counts and sizes are bounded.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from mint_common.errors import InvalidField
from mint_common.inference.body import read_text

STRUCTURES = ("response_format", "structured_outputs", "text", "output_config")
"""The fields that an engine compiles, besides the arguments of tools."""
_JSON_TEXTS = {"json", "structural_tag"}
MAX_COUNT = 1000
"""Maximum count of one repeated item, character or property."""
MAX_PRODUCT = 100_000
"""Maximum product of all counts in patterns and grammars, which may be nested."""
MAX_PATTERN_BYTES = 8 << 10
"""Maximum size of a field's patterns and grammars, and of one name: compile time grows with the square."""
MAX_CHOICE_BYTES = 16 << 10
"""Maximum size of a field's choices and enumerations: each text is compared with the others."""
MAX_COUNTED_PROPERTIES = 64
"""Maximum properties of an object that limits their number; for several, squares are added up."""
_COUNT = re.compile(rb'"(?:min|max)(?:Items|Length|Properties|Contains)":([0-9][0-9.eE+]*)')
_REPEAT = re.compile(rb"\{(\d*)(?:,(\d*))?\}")
_DIGITS = 20
"""Digits of a count that are read: a longer number is too large anyway."""


def check_structures(read: Mapping[str, Any]) -> None:
    """Check the structures of a request; they may be JSON in a string. Raises InvalidField."""
    for name in STRUCTURES:
        value = read.get(name)
        if value is None:
            continue
        check_structure(name, value)
        for key, inner in value.items() if isinstance(value, dict) else ():
            # What vLLM reads as JSON must be some, or its counts would be hidden.
            if key in _JSON_TEXTS and isinstance(inner, str) and inner.lstrip()[:1] in {"{", "["}:
                check_structure(name, read_text(inner, field=f"{name}.{key}"))
    if (read.get("structured_outputs") or {}).get("json_object") is False:
        raise InvalidField(field="structured_outputs.json_object", problem="must be true, or left out")


def check_structure(field: str, value: object) -> None:
    """Refuse a JSON value that says how an answer is built, if it counts too far or is too large to compile.

    Raises InvalidField.
    """
    # Encoded again: no escape hides a name, nor white space a colon.
    text = msgspec.json.encode(value)
    for said in _COUNT.findall(text):
        _check_count(field, float(said))
    counts = [int((high or low or b"1")[:_DIGITS]) for low, high in _REPEAT.findall(text)]
    for count in counts:
        _check_count(field, count)
    if math.prod(max(1, count) for count in counts) > MAX_PRODUCT:
        raise InvalidField(field=field, problem=f"repeats more than {MAX_PRODUCT} times in all")
    _check_compiled(field, value)


def _check_compiled(field: str, value: object) -> None:
    """Refuse what would take long to compile: nothing ends a compile in the engine."""
    objects = list(_objects(value))
    if any(isinstance(ref := part.get("$ref"), str) and not ref.startswith("#") for part in objects):
        raise InvalidField(
            field=field, problem="has a `$ref` that does not begin with `#`: nothing is fetched"
        )
    longest_name = max((len(name.encode()) for part in objects for name in part), default=0)
    patterns = _bytes(part.get(name) for part in objects for name in _COMPILED)
    patterns += _bytes(
        pattern
        for part in objects
        if isinstance(named := part.get("patternProperties"), dict)
        for pattern in named
    )
    choices = _bytes(
        choice
        for part in objects
        for name in _CHOSEN
        if isinstance(chosen := part.get(name), list)
        for choice in chosen
    )
    squares = sum(
        len(named) ** 2
        for part in objects
        if isinstance(named := part.get("properties"), dict) and not _PROPERTY_COUNTS.isdisjoint(part)
    )
    for used, most, problem in (
        (longest_name, MAX_PATTERN_BYTES, "has a name of more than {most} bytes"),
        (patterns, MAX_PATTERN_BYTES, "has patterns and grammars of more than {most} bytes in all"),
        (choices, MAX_CHOICE_BYTES, "has choices and enumerations of more than {most} bytes in all"),
        (squares, MAX_COUNTED_PROPERTIES**2, _COUNTED_PROBLEM),
    ):
        if used > most:
            raise InvalidField(field=field, problem=problem.format(most=most))


def _objects(value: object) -> Iterator[dict[str, Any]]:  # what JSON has
    """Yield every object of a JSON value."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            yield part


def _bytes(values: Iterable[object]) -> int:
    """Return the bytes of all texts among values."""
    return sum(len(each.encode()) for each in values if isinstance(each, str))


_COMPILED = ("pattern", "regex", "grammar")
_CHOSEN = ("choice", "enum")
_PROPERTY_COUNTS = frozenset({"minProperties", "maxProperties"})
_COUNTED_PROBLEM = (
    f"has more than {MAX_COUNTED_PROPERTIES} properties with minProperties or maxProperties, or several such "
    "objects whose squared numbers add up to more than {most}"
)


def _check_count(field: str, count: float) -> None:
    if not count <= MAX_COUNT:
        raise InvalidField(field=field, problem=f"may count to {MAX_COUNT} at most, got {count:g}")
