"""Messages and tools as other programs write them, in the form that rows of MinT have."""

from collections.abc import Mapping
from typing import Any

import msgspec

from mint_common.datasets import RowProblem

Message = dict[str, Any]  # JSON
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's other names of roles."""
_KEYS = {"from": "role", "value": "content"}
_FIELDS = frozenset(
    {
        "role",
        "content",
        "name",
        "weight",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "thinking",
    }
)
"""Fields of a row's messages."""


def said_by(role: str, content: Any) -> Message:  # JSON
    """Return a message."""
    return {"role": role, "content": content}


def is_conversation(value: Any) -> bool:
    """Return whether a value is a message or a list of messages."""
    if isinstance(value, list):
        return bool(value) and is_conversation(value[0])
    return isinstance(value, Mapping) and not {"role", "from"}.isdisjoint(value)


def from_text(value: Any) -> Any:
    """Return the list of messages that a text is the JSON of, as CSV files have it, else the value itself."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            found = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
        return found if is_conversation(found) else value
    return value


def read_messages(column: str, value: Any, unused: set[str]) -> list[Message]:
    """Return a conversation of ``role`` and ``content``, or of ShareGPT's ``from`` and ``value``.

    Names of fields that messages do not have are added to ``unused``. Raises RowProblem.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem("invalid_value", f"{column}: expected a list of messages, got {kind_of(value)}")
    return [_message(f"{column}[{index}]", column, each, unused) for index, each in enumerate(value)]


def _message(name: str, column: str, value: Any, unused: set[str]) -> Message:
    if not isinstance(value, Mapping):
        raise RowProblem("invalid_value", f"{name}: expected a message, got {kind_of(value)}")
    keys = _KEYS if "from" in value else {}
    found = {keys.get(key, key): each for key, each in value.items()}
    unused.update(f"{column}[].{key}" for key in found.keys() - _FIELDS if found[key] is not None)
    message = {key: each for key, each in found.items() if key in _FIELDS}
    match message.get("role"):
        case "function_call":
            return {**said_by("assistant", None), "tool_calls": _calls(name, message.get("content"))}
        case str(role):
            return {**message, "role": _ROLES.get(role, role)}
    return message


def _calls(name: str, content: Any) -> list[Any]:
    """Return the tool calls of a ``function_call``, whose content is one or a list, or the JSON of it."""
    try:
        found = msgspec.json.decode(content) if isinstance(content, str) else content
    except (msgspec.DecodeError, RecursionError):
        found = None
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise RowProblem("invalid_arguments", f"{name}: a function_call is the JSON of name and arguments")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def read_tools(value: Any) -> Any:
    """Return tools in OpenAI's form, also of a list of their functions alone, or of its JSON."""
    try:
        tools = msgspec.json.decode(value) if isinstance(value, str) else value
    except (msgspec.DecodeError, RecursionError):
        return value
    if isinstance(tools, list) and all(isinstance(tool, Mapping) and "name" in tool for tool in tools):
        return [{"type": "function", "function": tool} for tool in tools]
    return value


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: Any) -> str:  # JSON
    """Return the type of a value in the words of JSON."""
    return _KINDS.get(type(value), type(value).__name__)
