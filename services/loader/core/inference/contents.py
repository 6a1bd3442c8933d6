"""Kinds of values that vLLM's request models do not limit, as types that msgspec reads.

Contents of messages are text alone: a part that would make a server fetch an address, or decode a picture or
a sound, has a type that no kind here lists.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mint_common.inference.fields import MAX_BIASES, MAX_CHOICES, Short, Token

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_ARGUMENTS = 256 << 10
"""Maximum characters of one tool call's arguments, which a renderer reads as JSON."""
MAX_TEMPLATE_VALUES = 16


def _object(name: str, types: str = "", *, is_closed: bool = False, **optional: Any) -> Any:
    """Return the kind of an object whose type is one of ``types``; a closed one has no other fields."""
    literal: Any = Literal
    fields: list[Any] = [("type", literal[tuple(types.split())])] if types else []
    fields += [(field, kind | None, None) for field, kind in optional.items()]
    return msgspec.defstruct(name, fields, forbid_unknown_fields=is_closed)


def _parts(kind: Any, note: str = "") -> Any:
    return Annotated[list[kind], Meta(max_length=MAX_PARTS, description=note)]


def _turns(kind: Any, note: str) -> Any:
    text = f"1 to {MAX_MESSAGES} {note}, of text alone"
    return Annotated[list[kind], Meta(min_length=1, max_length=MAX_MESSAGES, description=text)]


def _conversations(kind: Any) -> Any:
    text = f"1 to {MAX_CHOICES} conversations"
    return Annotated[list[kind], Meta(min_length=1, max_length=MAX_CHOICES, description=text)]


Tokens = Annotated[list[Token], Meta(description="at most the base's context")]
TokenSet = Annotated[list[Token], Meta(max_length=MAX_BIASES, description=f"at most {MAX_BIASES} tokens")]
Biases = Annotated[dict[str, float], Meta(max_length=MAX_BIASES, description=f"at most {MAX_BIASES} tokens")]
Words = Annotated[list[Short], Meta(max_length=128, description="at most 128 of at most 1,000 characters")]
_VALUES = (
    f"at most {MAX_TEMPLATE_VALUES} numbers, flags and short texts, such as `enable_thinking`; no argument "
    "of the tokenizer itself"
)
TemplateValues = Annotated[
    dict[Short, bool | int | float | Short | None], Meta(max_length=MAX_TEMPLATE_VALUES, description=_VALUES)
]
StreamExtras = _object(
    "StreamExtras",
    is_closed=True,
    include_usage=bool,
    continuous_usage_stats=bool,
    include_obfuscation=bool,
)
_Size = Annotated[int, Meta(ge=0, le=256)]
RepetitionDetection = _object(
    "RepetitionDetection", is_closed=True, max_pattern_size=_Size, min_pattern_size=_Size, min_count=_Size
)
"""Limits of repetition at which an answer ends; each token is compared with as many as these say."""
_Grammar = Annotated[str, Meta(max_length=64 << 10)]
StructuredOutputs = _object(
    "StructuredOutputs",
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

_ChatPart = _object(
    "ChatPart",
    "text refusal thinking",
    is_closed=True,  # vLLM takes a part with a ``uuid`` for a picture, whatever its type
    text=str,
    refusal=str,
    thinking=str,
    signature=str,
    cache_control=Any,
)
_Function = _object("Function", arguments=_Arguments | dict[str, Any])
_ToolCalls = _parts(_object("ToolCall", function=_Function))
Messages = _turns(
    _object("Message", content=str | _parts(str | _ChatPart), tool_calls=_ToolCalls), "messages"
)
Conversations = _conversations(Messages)

_ResultParts = _parts(_object("AnthropicResultPart", "text tool_reference"))
_AnthropicPart = _object(
    "AnthropicPart",
    "text tool_use tool_result tool_reference tool_addition tool_removal thinking redacted_thinking",
    content=str | _ResultParts,
)
AnthropicText = str | _parts(_AnthropicPart)
AnthropicMessages = _turns(_object("AnthropicMessage", content=AnthropicText), "messages")
AnthropicTools = _parts(_object("AnthropicTool", type=Literal["custom"]), "tools that the client runs")

_ResponseText = str | _parts(
    _object(  # vLLM reads no refusals here
        "ResponsePart",
        "input_text output_text reasoning_text summary_text",
        is_closed=True,
        text=str,
        annotations=Any,
        logprobs=Any,
        parsed=Any,
    )
)
_ItemTypes: Any = Literal[
    *("message", "reasoning", "function_call", "function_call_output"),
    *("custom_tool_call", "custom_tool_call_output"),
]
ResponseInput = str | _turns(
    _object("Item", type=_ItemTypes, content=_ResponseText, output=_ResponseText, arguments=_Arguments),
    "items",
)
ResponseTools = _parts(_object("ResponseTool", "function custom"), "functions that the client runs")
