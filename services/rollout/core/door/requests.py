"""Requests at the model door, read and checked.

Invariant: what is sampled is the policy's own distribution at the job's temperature, since that is what is
trained; a field that would change it is refused, unless its value changes nothing.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mint_common.errors import InvalidField
from mint_common.inference.body import read_body
from mint_common.inference.fields import (
    VALUE_BYTES,
    FieldRules,
    Stops,
    StopTokens,
    Token,
    TokenCount,
    accepted,
    check_fields,
    ignored,
    refused,
)
from mint_common.json_reading import convert_json

MAX_MESSAGES = 4096

_OWN = "an episode samples the policy's own distribution, which is what is trained"
_JOBS = "the job's own is used"
SAME_DISTRIBUTION: FieldRules = {
    **ignored("temperature", _JOBS),
    **ignored("seed", "each call has its own, the same at each attempt of the episode"),
    **refused("top_p repetition_penalty length_penalty n best_of", _OWN, 1),
    **refused("top_k", _OWN, 0, -1),
    **refused("min_p presence_penalty frequency_penalty min_tokens top_logprobs", _OWN, 0),
    **refused("stop bad_words allowed_token_ids logit_bias", _OWN, [], {}, ""),
    **refused("structured_outputs repetition_detection thinking_token_budget prompt_logprobs", _OWN),
    **refused("ignore_eos include_stop_str_in_output use_beam_search watermarking", _OWN, False),
}
"""The fields of all APIs that would change what is sampled."""
_SAMPLING: FieldRules = {
    **SAME_DISTRIBUTION,
    **accepted("stop_token_ids max_tokens"),
    **accepted("skip_special_tokens spaces_between_special_tokens detokenize return_tokens_as_token_ids"),
}
SERVING = ignored(
    "cache_salt priority user safety_identifier metadata store service_tier prompt_cache_key"
    " prompt_cache_retention prediction verbosity request_id",
    "no answer depends on it",
)
_CHAT: FieldRules = {
    **_SAMPLING,
    **SERVING,
    **accepted("model messages tools chat_template_kwargs reasoning_effort", max_bytes=None),
    **accepted("tokens", max_bytes=None),
    **accepted("max_completion_tokens stream stream_options logprobs return_token_ids"),
    **accepted("include_reasoning parallel_tool_calls"),
    **refused("tool_choice", _OWN, "auto", "none"),
    **refused("response_format", _OWN, {"type": "text"}),
    **refused("add_generation_prompt", "an answer is generated", True),
    **refused("continue_final_message echo", "an answer is a message of its own", False),
    **refused("chat_template", "the base's own is used"),
    **refused("functions function_call", "the older form of tools", [], "none"),
    **refused("modalities", "answers are text", ["text"]),
}
_GENERATE: FieldRules = {
    **SERVING,
    **accepted("model token_ids", max_bytes=None),
    **accepted("sampling_params return_token_ids stream_options token_offsets reasoning_ended"),
    **refused("stream", "an answer comes whole", False),
    **refused("output_mode", "the answer is tokens", "tokens"),
    **refused("features content_parts", "pictures and sounds are not read", []),
}
_GENERATE_SAMPLING: FieldRules = {
    **_SAMPLING,
    **accepted("logprobs routed_experts_prompt_start stop"),
    **refused("logprobs_mode", "those at the job's temperature are given", "processed"),
    **refused("return_routed_experts", "the routes are not recorded", False),
    **ignored("output_kind stream_interval extra_args", "the answer comes whole"),
}

Json = dict[str, Any]
"""An object of JSON that others wrote."""
Messages = Annotated[list[Json], Meta(min_length=1, max_length=MAX_MESSAGES)]


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct, frozen=True):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, frozen=True):
    """The parts of a message that tell it from others; the base's template reads and checks the rest."""

    role: str
    content: str | list[Json] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A checked request of OpenAI's chat; ``tokens`` are its prompt, if it is rendered already.

    ``template`` repeats the fields that change how messages are rendered.
    """

    messages: Messages
    model: str = ""
    tokens: tuple[Token, ...] | None = None
    tools: list[Json] | None = None
    tool_choice: str | None = None
    chat_template_kwargs: Json | None = None
    reasoning_effort: str | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    stop_token_ids: StopTokens | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: bool | None = None
    return_token_ids: bool | None = None

    @property
    def limit(self) -> int | None:
        """Return the maximum of new tokens, if the request has one."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def template(self) -> Json:
        """Return the fields of the request that the base's chat template reads, without the messages."""
        values = {
            "tools": self.tools or None,
            "tool_choice": self.tool_choice if self.tools else None,
            "chat_template_kwargs": self.chat_template_kwargs or None,
            "reasoning_effort": self.reasoning_effort,
        }
        return {name: value for name, value in values.items() if value is not None}


class _SamplingParams(msgspec.Struct, frozen=True):
    max_tokens: TokenCount | None = None
    stop_token_ids: StopTokens | None = None
    stop: Stops | None = None
    logprobs: TokenCount | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the texts at which sampling ends; the answer has the tokens of the text too."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TokensRequest(msgspec.Struct, frozen=True):
    """A checked request of `/inference/v1/generate`: token ids in, token ids out."""

    token_ids: Annotated[tuple[Token, ...], Meta(min_length=1)]
    model: str = ""
    sampling_params: _SamplingParams = _SamplingParams()
    return_token_ids: bool | None = None


def read_chat(body: bytes, *, needs_tokens: bool = False) -> ChatRequest:
    """Return a chat request. Raises InvalidField naming the first wrong field."""
    read = read_body(body)
    for name in check_fields(read, _CHAT, is_large=len(body) > VALUE_BYTES):
        del read[name]
    found: ChatRequest = convert_json(read, ChatRequest)
    convert_json(found.messages, list[_Message], field="messages")
    if needs_tokens and not found.tokens:
        raise InvalidField(field="tokens", problem="must have at least one token")
    if not needs_tokens and found.tokens is not None:
        raise InvalidField(field="tokens", problem="is of /v1/chat/completions/tokens")
    return found


def read_tokens(body: bytes) -> TokensRequest:
    """Return a request for tokens. Raises InvalidField naming the first wrong field."""
    read, is_large = read_body(body), len(body) > VALUE_BYTES
    for name in check_fields(read, _GENERATE, is_large=is_large):
        del read[name]
    if isinstance(sampling := read.get("sampling_params"), dict):
        for name in check_fields(sampling, _GENERATE_SAMPLING, is_large=is_large, within="sampling_params."):
            del sampling[name]
    found: TokensRequest = convert_json(read, TokensRequest)
    return found
