"""What values the bounded fields of the serving API may have, as types that msgspec reads.

Contents of messages are text alone: a part that would make a server fetch an address, or decode a picture or
a sound, has a type that no shape here lists.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_CHOICES = 256
"""Prompts times ``n`` of one request: more of them would be one user's flood in a single call."""
MAX_ALTERNATIVES = 20
"""Log-probabilities beside each token; vLLM's own default."""
MAX_STOPS = 16
MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_ARGUMENTS = 256 << 10
"""Characters of one tool call's arguments, which a renderer reads as JSON."""
MAX_STOP_TOKENS = 128
MAX_BIASES = 1024
"""What vLLM's sampler on GPU holds of a request, as for `MAX_STOP_TOKENS`."""
MAX_TEMPLATE_VALUES = 16
INT32, INT64 = 2**31 - 1, 2**63 - 1

Number = float | None
Int = Annotated[int, Meta(ge=-INT64 - 1, le=INT64)] | None
Limit = Annotated[int, Meta(ge=0, le=INT32)] | None
"""A number of tokens."""
TopK = Annotated[int, Meta(ge=-1, le=INT32)] | None
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None
Alternatives = Annotated[int, Meta(ge=0, le=MAX_ALTERNATIVES)] | None
Token = Annotated[int, Meta(ge=0, le=INT32)]
Tokens = list[Token]
StopTokens = Annotated[list[Token], Meta(max_length=MAX_STOP_TOKENS)] | None
TokenSet = Annotated[list[Token], Meta(max_length=MAX_BIASES)] | None
Short = Annotated[str, Meta(max_length=1000)]
Grammar = Annotated[str, Meta(max_length=64 << 10)]
Stops = Short | Annotated[list[Short], Meta(max_length=MAX_STOPS)] | None
Words = Annotated[list[Short], Meta(max_length=128)] | None
Biases = Annotated[dict[str, float], Meta(max_length=MAX_BIASES)] | None


class StreamExtras(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream carries beside its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class RepetitionDetection(msgspec.Struct, forbid_unknown_fields=True):
    """When an answer that repeats itself ends; each token is compared with as many as these say."""

    max_pattern_size: Annotated[int, Meta(ge=0, le=256)] = 0
    min_pattern_size: Annotated[int, Meta(ge=0, le=256)] = 0
    min_count: Annotated[int, Meta(ge=0, le=256)] = 0


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's own form of a structure that an answer has; its validators expect an object of these types."""

    json: msgspec.Raw = msgspec.Raw(b"null")
    regex: Grammar | None = None
    choice: Annotated[list[Short], Meta(max_length=MAX_BIASES)] | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    structural_tag: Grammar | None = None
    whitespace_pattern: Short | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False


Object = dict[str, msgspec.Raw] | None

TemplateValues = (
    Annotated[dict[Short, bool | int | float | Short | None], Meta(max_length=MAX_TEMPLATE_VALUES)] | None
)


class ChatPart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a chat message. vLLM takes a part with a ``uuid`` for a picture, whatever its type."""

    type: Literal["text", "refusal", "thinking"]
    text: str | None = None
    refusal: str | None = None
    thinking: str | None = None
    signature: str | None = None
    cache_control: msgspec.Raw = msgspec.Raw(b"null")


ChatParts = Annotated[list[str | ChatPart], Meta(max_length=MAX_PARTS)]


Arguments = Annotated[str, Meta(max_length=MAX_ARGUMENTS)]


class CalledFunction(msgspec.Struct):
    """What a tool call called."""

    arguments: Arguments | dict[str, msgspec.Raw] | None = None


class EarlierCall(msgspec.Struct):
    """A tool call of an earlier answer."""

    function: CalledFunction | None = None


class TextMessage(msgspec.Struct):
    """A message of a chat, or what an answer had, sent back."""

    role: str
    content: str | ChatParts | None = None
    tool_calls: Annotated[list[EarlierCall], Meta(max_length=MAX_PARTS)] | None = None


Messages = Annotated[list[TextMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]


class AnthropicResultPart(msgspec.Struct):
    """A part of what a tool answered."""

    type: Literal["text", "tool_reference"]


class AnthropicPart(msgspec.Struct):
    """A block of an Anthropic message."""

    type: Literal[
        "text",
        "tool_use",
        "tool_result",
        "tool_reference",
        "tool_addition",
        "tool_removal",
        "thinking",
        "redacted_thinking",
    ]
    content: str | Annotated[list[AnthropicResultPart], Meta(max_length=MAX_PARTS)] | None = None


AnthropicParts = Annotated[list[AnthropicPart], Meta(max_length=MAX_PARTS)]


class AnthropicMessage(msgspec.Struct):
    """A message of the Anthropic API."""

    role: str
    content: str | AnthropicParts


AnthropicMessages = Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
AnthropicSystem = str | AnthropicParts | None


class AnthropicTool(msgspec.Struct):
    """A tool that the client carries out; a type is what the servers' own tools have."""

    name: str
    type: Literal["custom"] | None = None
    input_schema: msgspec.Raw = msgspec.Raw(b"null")


AnthropicTools = Annotated[list[AnthropicTool], Meta(max_length=MAX_PARTS)] | None


class ResponsePart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of an item of the Responses API. vLLM reads no refusals here."""

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    text: str | None = None
    annotations: msgspec.Raw = msgspec.Raw(b"null")
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    parsed: msgspec.Raw = msgspec.Raw(b"null")


ResponseParts = Annotated[list[ResponsePart], Meta(max_length=MAX_PARTS)]


class ResponseItem(msgspec.Struct):
    """An item of the Responses API's input: a message, a call of a tool, or what the tool answered."""

    type: (
        Literal[
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
            "custom_tool_call",
            "custom_tool_call_output",
        ]
        | None
    ) = None
    content: str | ResponseParts | None = None
    output: str | ResponseParts | None = None
    arguments: Arguments | None = None


ResponseInput = str | Annotated[list[ResponseItem], Meta(min_length=1, max_length=MAX_MESSAGES)]


class ResponseTool(msgspec.Struct):
    """A tool that the client carries out: others would make a server call addresses or run code."""

    type: Literal["function", "custom"]
    parameters: msgspec.Raw = msgspec.Raw(b"null")


ResponseTools = Annotated[list[ResponseTool], Meta(max_length=MAX_PARTS)] | None
