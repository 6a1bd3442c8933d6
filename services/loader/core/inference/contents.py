"""Kinds of values that vLLM's request models do not bound, as types that msgspec reads.

Contents of messages are text alone: a part that would make a server fetch an address, or decode a picture or
a sound, has a type that no kind here lists.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mint_common.inference.fields import MAX_BIASES, Short, Token

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_ARGUMENTS = 256 << 10
"""Maximum characters of one tool call's arguments, which a renderer reads as JSON."""
MAX_TEMPLATE_VALUES = 16


def _kind(name: str, required: Mapping[str, Any], *, is_closed: bool = False, **optional: Any) -> Any:
    """Return the kind of an object; a closed one has no other fields."""
    fields: list[Any] = [*required.items(), *((field, kind | None, None) for field, kind in optional.items())]
    return msgspec.defstruct(name, fields, forbid_unknown_fields=is_closed)


def _parts(kind: Any) -> Any:
    return Annotated[list[kind], Meta(max_length=MAX_PARTS)]


def _turns(kind: Any) -> Any:
    return Annotated[list[kind], Meta(min_length=1, max_length=MAX_MESSAGES)]


Tokens = list[Token]
TokenSet = Annotated[list[Token], Meta(max_length=MAX_BIASES)]
Words = Annotated[list[Short], Meta(max_length=128)]
Biases = Annotated[dict[str, float], Meta(max_length=MAX_BIASES)]
TemplateValues = Annotated[
    dict[Short, bool | int | float | Short | None], Meta(max_length=MAX_TEMPLATE_VALUES)
]
StreamExtras = _kind(
    "StreamExtras",
    {},
    is_closed=True,
    include_usage=bool,
    continuous_usage_stats=bool,
    include_obfuscation=bool,
)
_Repeated = Annotated[int, Meta(ge=0, le=256)]
RepetitionDetection = _kind(
    "RepetitionDetection",
    {},
    is_closed=True,
    max_pattern_size=_Repeated,
    min_pattern_size=_Repeated,
    min_count=_Repeated,
)
"""When an answer that repeats itself ends; each token is compared with as many as these say."""
_Grammar = Annotated[str, Meta(max_length=64 << 10)]
StructuredOutputs = _kind(
    "StructuredOutputs",
    {},
    is_closed=True,
    json=Any,
    regex=_Grammar,
    choice=Annotated[list[Short], Meta(max_length=MAX_BIASES)],
    grammar=_Grammar,
    json_object=bool,
    structural_tag=_Grammar,
    whitespace_pattern=Short,
    disable_any_whitespace=bool,
    disable_additional_properties=bool,
)
"""vLLM's own form of a structure that an answer has; its validators expect an object of these types."""

_Arguments = Annotated[str, Meta(max_length=MAX_ARGUMENTS)]
_ChatPart = _kind(
    "ChatPart",
    {"type": Literal["text", "refusal", "thinking"]},
    is_closed=True,  # vLLM takes a part with a ``uuid`` for a picture, whatever its type
    text=str,
    refusal=str,
    thinking=str,
    signature=str,
    cache_control=Any,
)
_CalledFunction = _kind("CalledFunction", {}, arguments=_Arguments | dict[str, Any])
_EarlierCall = _kind("EarlierCall", {}, function=_CalledFunction)
Messages = _turns(
    _kind("Message", {"role": str}, content=str | _parts(str | _ChatPart), tool_calls=_parts(_EarlierCall))
)

_AnthropicResultPart = _kind("AnthropicResultPart", {"type": Literal["text", "tool_reference"]})
_AnthropicTypes = Literal[
    "text",
    "tool_use",
    "tool_result",
    "tool_reference",
    "tool_addition",
    "tool_removal",
    "thinking",
    "redacted_thinking",
]
AnthropicSystem = str | _parts(
    _kind("AnthropicPart", {"type": _AnthropicTypes}, content=str | _parts(_AnthropicResultPart))
)
AnthropicMessages = _turns(_kind("AnthropicMessage", {"role": str, "content": AnthropicSystem}))
AnthropicTools = _parts(
    _kind("AnthropicTool", {"name": str}, type=Literal["custom"])  # no server's own tool
)

_ResponsePart = _kind(
    "ResponsePart",
    {
        "type": Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    },  # vLLM reads no refusals
    is_closed=True,
    text=str,
    annotations=Any,
    logprobs=Any,
    parsed=Any,
)
_ResponseTypes = Literal[
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
]
_ResponseText = str | _parts(_ResponsePart)
ResponseInput = str | _turns(
    _kind("Item", {}, type=_ResponseTypes, content=_ResponseText, output=_ResponseText, arguments=_Arguments)
)
ResponseTools = _parts(
    _kind(
        "ResponseTool", {"type": Literal["function", "custom"]}, parameters=Any
    )  # none that calls addresses
)
