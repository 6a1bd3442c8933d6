"""The check of a request of an inference API, before vLLM's request models read it.

Invariant: values that an engine's readers do not tolerate, and structures that would take long to compile,
are refused before they are read; no error has a status that clients retry. The gateway has read the body
strictly before.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mint_common.errors import InvalidField
from mint_common.inference.body import check_nested, count_nested, decode_object
from mint_common.inference.fields import VALUE_BYTES, check_fields
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import check_context
from mint_common.json_reading import convert_json
from services.loader.core.inference.contents import Tokens
from services.loader.core.inference.fields import FIELDS, NEVER_IN_TEMPLATES
from services.loader.core.inference.structures import check_structures


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBody:
    """The fields of a request for vLLM to read, and the names of those that nothing reads."""

    fields: dict[str, Any]  # JSON
    ignored: tuple[str, ...]


def read_checked(operation: ApiOperation, body: bytes, *, max_context: int) -> CheckedBody:
    """Return a request's fields. Raises InvalidField naming the first wrong field, ContextExceeded."""
    read = decode_object(body)
    check_context("tokens", read.get("tokens"), max_context)
    ignored = check_fields(read, FIELDS[operation], is_large=len(body) > VALUE_BYTES)
    for name in ignored:
        del read[name]
    if operation is ApiOperation.COMPLETION:
        _check_prompts(read.get("prompt"), max_context)
    elif operation is ApiOperation.TOKENIZE:
        _check_one_of(read, "messages", "prompt")
    check_structures(read)
    for name in NEVER_IN_TEMPLATES.intersection(read.get("chat_template_kwargs") or ()):
        raise InvalidField(field=f"chat_template_kwargs.{name}", problem="is not a valid value of a template")
    _check_conversation(operation, read, body)
    return CheckedBody(fields=read, ignored=ignored)


def _check_one_of(read: Mapping[str, Any], *names: str) -> None:
    if sum(read.get(name) is not None for name in names) != 1:
        raise InvalidField(field=names[0], problem=f"give exactly one of {', '.join(names)}")


def _check_prompts(prompt: object, max_context: int) -> None:
    """Check prompts of tokens: vLLM reads each before it counts them, and accepts negative ones."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], str):
        return
    is_one = not isinstance(prompt[0], list)
    for each in [prompt] if is_one else prompt:
        check_context("prompt", each, max_context)
    convert_json(prompt, Tokens if is_one else list[Tokens], field="prompt")


def _check_conversation(operation: ApiOperation, read: Mapping[str, Any], body: bytes) -> None:
    """Refuse a conversation that a renderer fails on, or that blocks it. Raises InvalidField.

    A renderer reads the arguments of earlier tool calls as JSON, so what nests in them counts as what nests
    in the body.
    """
    nested = 0
    for field, arguments in () if operation.is_anthropic else _arguments(read):
        nested = nested or count_nested(body, field="body")
        nested += count_nested(arguments.encode(), field=field)
        check_nested(nested)
    for place, item in enumerate(_items(read)):
        if item.get("content") == [] and item.get("type") != "reasoning":
            raise InvalidField(field=f"input[{place}].content", problem="must not be empty")
    if operation.is_chat and read.get("echo") and read.get("stream"):
        # A template may take a message as a list of parts, which no event of a stream can carry.
        raise InvalidField(field="echo", problem="is not accepted with `stream`: omit one of them")


def _arguments(read: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each tool call's arguments that are a text, and where they are."""
    messages = read.get("messages") or ()
    if messages and isinstance(messages[0], list):
        messages = [message for conversation in messages for message in conversation]
    for place, message in enumerate(messages):
        for at, call in enumerate(message.get("tool_calls") or ()):
            arguments = (call.get("function") or {}).get("arguments")
            if isinstance(arguments, str):
                yield f"messages[{place}].tool_calls[{at}].function.arguments", arguments
    for place, item in enumerate(_items(read)):
        if item.get("arguments") is not None:
            yield f"input[{place}].arguments", item["arguments"]


def _items(read: Mapping[str, Any]) -> list[Any]:
    items = read.get("input")
    return items if isinstance(items, list) else []
