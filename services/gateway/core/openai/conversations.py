"""Checks of what a conversation says, beyond the shapes of its fields."""

from collections.abc import Iterator
from typing import Any

from mint_common.errors import InvalidField
from services.gateway.core.openai.nesting import check_nested, count_nested


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
