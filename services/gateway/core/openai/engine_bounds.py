"""What an engine's readers bear: nesting, conversations, and structures that an engine compiles.

A schema of ``{"minItems": 1000000000}`` stops an engine for everybody, so counts and sizes are bounded.
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import msgspec

from mint_common.errors import InvalidField

MAX_DEPTH = 64
"""vLLM's own bound of a schema."""
MAX_NESTED = 20_000
"""Lists and objects of one body: an engine's reader takes some 10 us for each."""
MAX_COUNT = 1000
"""Of one item, character or property that is repeated."""
MAX_PRODUCT = 100_000
"""Of all counts of patterns and grammars: they may stand inside one another."""
MAX_PATTERN_BYTES = 8 << 10
"""Of a field's patterns and grammars together, and of one name: the time to compile grows with the square."""
MAX_CHOICE_BYTES = 16 << 10
"""Of a field's choices and enumerations together: each text is compared with the others."""
MAX_COUNTED_PROPERTIES = 64
"""Of an object with a bounded number of properties; of several, the time grows with the sum of squares."""
_COUNT = re.compile(rb'"(?:min|max)(?:Items|Length|Properties|Contains)":([0-9][0-9.eE+]*)')
_REPEAT = re.compile(rb"\{(\d*)(?:,(\d*))?\}")
_DIGITS = 20
"""More of them need not be read: the number is too large."""


def count_nested(text: bytes, *, field: str, few: int) -> int:
    """Return how many lists and objects JSON has. Raises InvalidField when it nests deeper than `MAX_DEPTH`.

    Of a text with up to ``few`` opening brackets, which is at most `MAX_DEPTH`, those within its own texts
    count as well.
    """
    count = text.count(b"[") + text.count(b"{")
    if count <= few:
        return count
    # Without escapes every quote begins or ends a text; what is between texts then nests.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NEITHER)
    brackets = b"".join(plain.split(b'"')[::2])
    count = brackets.count(b"[") + brackets.count(b"{")
    check_nested(count)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise InvalidField(field=field, problem=f"nests deeper than {MAX_DEPTH} levels")
    return count


def check_nested(count: int) -> None:
    """Refuse more lists and objects than a body may have. Raises InvalidField."""
    if count > MAX_NESTED:
        raise InvalidField(field="body", problem=f"has more than {MAX_NESTED} lists and objects")


_NEITHER = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check_conversation(read: Any, *, nested: int) -> None:  # the struct of any endpoint's body
    """Refuse what a renderer fails on, or is held up by. Raises InvalidField.

    A renderer reads the arguments of earlier tool calls as JSON, so what nests in them counts as what nests
    in the body, which has ``nested`` lists and objects.
    """
    for field, arguments in _arguments(read):
        nested += count_nested(arguments.encode(), field=field, few=2)
        check_nested(nested)
    for place, item in enumerate(_items(read)):
        if item.content == [] and item.type != "reasoning":
            raise InvalidField(field=f"input[{place}].content", problem="must not be empty")
    if getattr(read, "echo", None) is True and read.stream:
        # A template may take a message as a list of parts, which no event of a stream can carry.
        raise InvalidField(field="echo", problem="is not taken with `stream`: ask for a whole answer")


def _arguments(read: Any) -> Iterator[tuple[str, str]]:
    """Yield each tool call's arguments that are a text, and where they are."""
    for place, message in enumerate(getattr(read, "messages", None) or ()):
        for at, call in enumerate(getattr(message, "tool_calls", None) or ()):
            if call.function is not None and isinstance(call.function.arguments, str):
                yield f"messages[{place}].tool_calls[{at}].function.arguments", call.function.arguments
    for place, item in enumerate(_items(read)):
        if item.arguments is not None:
            yield f"input[{place}].arguments", item.arguments


def _items(read: Any) -> list[Any]:
    items = getattr(read, "input", None)
    return items if isinstance(items, list) else []


def check_structure(field: str, value: object) -> None:
    """Refuse a JSON value that says how an answer is built, if it counts too far or is too large to compile.

    Raises InvalidField.
    """
    # Encoded anew: no escape hides a name, nor white space a colon.
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
