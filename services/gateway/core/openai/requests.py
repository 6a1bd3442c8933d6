"""The bodies of the OpenAI API that the gateway reads.

Fields typed ``object`` are known to clients but cannot take effect here: only their neutral value is accepted
(see `sampling.check_supported`). A field that is not listed at all is refused by name.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import FailFast

from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject

Item = TypeVar("Item")


class FirstError(FailFast):
    """`FailFast` that may stand in a union."""

    def __hash__(self) -> int:
        return hash(type(self))


Many = Annotated[tuple[Item, ...], FirstError()]
"""Read up to the first item that is wrong: a million of them would be a million errors."""
Tokens = Many[int]
FORBID = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What a stream carries beside its text."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    include_usage: bool | None = None
    include_obfuscation: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFields:
    """What both endpoints share; ``top_k`` and ``ignore_eos`` are vLLM's extensions."""

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: int | None = None
    stop: str | Many[str] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    presence_penalty: object = None
    frequency_penalty: object = None
    logit_bias: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionBody(SamplingFields):
    """The body of ``POST /v1/completions``."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"model": "counter@prod", "prompt": "2 4 6 8", "max_tokens": 8, "temperature": 0}
    )

    prompt: str | Many[str] | Tokens | Many[Tokens]
    logprobs: int | None = None
    echo: object = None
    suffix: object = None
    best_of: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """One part of a message's content."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    type: Literal["text"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTurn:
    """One message; the fields after ``name`` are what an answer of ours has when it is sent back."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Many[TextPart]
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatBody(SamplingFields):
    """The body of ``POST /v1/chat/completions``."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"model": "counter@2", "messages": [{"role": "user", "content": "2 4 6 8"}], "max_tokens": 8}
    )

    messages: Many[ChatTurn]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: object = None
    tools: object = None
    tool_choice: object = None
    functions: object = None
    modalities: object = None
    metadata: object = None
    store: object = None
