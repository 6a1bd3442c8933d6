"""Messages of rows as chat templates take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mint_common.datasets.rows import RowMessage, ToolCall, arguments_of
from services.trainer.core.rendering.template import ChatTemplate, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, the tools that are offered, and the messages that are trained, by their places."""

    messages: Sequence[JsonObject]
    tools: Sequence[JsonObject] | None
    trained: Sequence[int]


def conversation(
    template: ChatTemplate, prompt: Sequence[RowMessage], answer: Sequence[RowMessage], tools: object
) -> Conversation:
    """Return a prompt and what answers it; the assistant's messages of the answer are trained.

    ``tools`` are those of the row as it was decoded: templates write them in the order of their keys.
    """
    messages = [*prompt, *answer]
    trained = [
        place
        for place, message in enumerate(messages)
        if place >= len(prompt) and message.role == "assistant" and message.weight != 0
    ]
    return Conversation(
        messages=[_message(message, as_text=template.takes_arguments_as_text) for message in messages],
        tools=_tools(tools),
        trained=trained,
    )


def _message(message: RowMessage, *, as_text: bool) -> JsonObject:
    # "developer" is OpenAI's newer word for the system's turn; vLLM writes it so for templates that lack it.
    told: JsonObject = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _text(message),
    }
    # A key that is there counts for some templates, whatever its value.
    for name in ("name", "tool_call_id", "reasoning_content", "thinking"):
        value = getattr(message, name)
        if value is not None:
            told[name] = value
    if message.tool_calls:
        told["tool_calls"] = [_call(call, as_text=as_text) for call in message.tool_calls]
    return told


def _text(message: RowMessage) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content or ""


def _call(call: ToolCall, *, as_text: bool) -> JsonObject:
    arguments: Any = arguments_of(call)  # JSON
    if as_text:
        arguments = msgspec.json.encode(arguments).decode()
    told: JsonObject = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    return told if call.id is None else {"id": call.id, **told}


def _tools(tools: object) -> list[JsonObject] | None:
    found: Any = msgspec.json.decode(tools) if isinstance(tools, str) else tools  # checked with its row
    return found or None
