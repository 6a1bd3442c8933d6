"""Every field of vLLM's request models: whether it is passed on, bounded, set by MinT, ignored or refused.

A test fails when an installed vLLM has a field that no row names. A passed field means what vLLM's
documentation says, and vLLM refuses wrong values of it. A field that no row names is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Literal

from services.gateway.core.openai import field_shapes as shape
from services.gateway.core.openai.field_rows import (
    GENERATING,
    MEDIA,
    MODEL,
    NUMBERS_OF_SAMPLING,
    OURS,
    PROMPT_BYTES,
    RANGES,
    SAMPLING,
    STREAM,
    STRUCTURED_OUTPUTS,
    TEMPLATE,
    TOKEN_BOUNDS,
    TOOLS_BYTES,
    TRANSFER,
    VALUE_BYTES,
    Fate,
    Field,
    bounded,
    ignored,
    large,
    passed,
    refused,
    set_by_mint,
)


class Endpoint(StrEnum):
    """What a body asks for."""

    CHAT = "chat"
    CHAT_TOKENS = "chat from tokens"
    COMPLETION = "completion"
    RESPONSE = "response"
    MESSAGE = "message"
    COUNT_TOKENS = "count tokens"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    GENERATE = "generate"


OPENAI_IGNORED = ignored(
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    note="OpenAI's own",
)
MESSAGES = bounded(
    "messages",
    shape.Messages,
    f"1 to {shape.MAX_MESSAGES} messages, of text alone: no server fetches an address; arguments of a tool "
    f"call have at most {shape.MAX_ARGUMENTS >> 10} Ki characters",
    is_needed=True,
)
CHAT = (
    *GENERATING,
    MESSAGES,
    *MEDIA,
    *TEMPLATE,
    *OPENAI_IGNORED,
    bounded("max_completion_tokens", shape.Limit, RANGES),
    bounded("top_logprobs", shape.Alternatives, f"0 to {shape.MAX_ALTERNATIVES}"),
    large("tools", TOOLS_BYTES),
    large("documents", VALUE_BYTES),
    Field(name="logprobs", fate=Fate.PASSED, shape=bool | None),
    bounded("echo", bool | None, "not with `stream`"),
    *passed(
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "include_reasoning",
        "add_generation_prompt",
        "continue_final_message",
        "return_prompt_text",
    ),
    *refused("functions", note="the older form of `tools`", neutral=(None, [])),
    *refused("function_call", note="the older form of `tool_choice`", neutral=(None, "none")),
    *refused("modalities", note="answers are text", neutral=(None, ["text"])),
    *refused("audio", "prediction", "web_search_options", "moderation", note="OpenAI's own"),
    *refused("verbosity", note="OpenAI's own", neutral=(None, "medium")),
)
CHAT_TOKENS = (
    *CHAT,
    bounded("tokens", shape.Tokens, "at most the base's context", is_needed=True),
)
COMPLETION = (
    *GENERATING,
    Field(
        name="prompt",
        fate=Fate.BOUNDED,
        is_needed=True,
        note=f"at most {shape.MAX_CHOICES} prompts, each within the base's context",
        most_bytes=PROMPT_BYTES,
    ),
    bounded("logprobs", shape.Alternatives, f"0 to {shape.MAX_ALTERNATIVES}"),
    *passed("echo", "mm_payload", "return_mm_kwargs"),
    *refused("suffix", note="no base here fills in", neutral=(None, "")),
    *refused("best_of", note="ask for `n`", neutral=(None, 1)),
    *refused("prompt_embeds", note="a prompt is text or tokens", neutral=(None, [])),
)
RESPONSE = (
    MODEL,
    STREAM,
    *NUMBERS_OF_SAMPLING,
    *TOKEN_BOUNDS,
    bounded(
        "input",
        shape.ResponseInput,
        f"1 to {shape.MAX_MESSAGES} items, of text alone; no refusals",
        is_needed=True,
    ),
    bounded("tools", shape.ResponseTools, "functions and custom tools, which the client carries out"),
    bounded("max_output_tokens", shape.Limit, RANGES),
    bounded("max_tool_calls", shape.Int, RANGES),
    bounded("top_logprobs", shape.Alternatives, f"0 to {shape.MAX_ALTERNATIVES}"),
    Field(name="instructions", fate=Fate.PASSED, most_bytes=PROMPT_BYTES),
    large("text", VALUE_BYTES, shape.Object),
    STRUCTURED_OUTPUTS,
    *passed(
        "include",
        "reasoning",
        "include_reasoning",
        "tool_choice",
        "parallel_tool_calls",
        "truncation",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_stop_str_in_output",
        "ignore_eos",
        "watermarking",
        "session_id",
        "enable_response_messages",
    ),
    *OURS,
    *TRANSFER,
    *MEDIA,
    *(row for row in TEMPLATE if row.name != "chat_template"),
    *OPENAI_IGNORED,
    *ignored("user"),
    *ignored("stream_options", note="a stream's last event has the usage"),
    *refused("background", note="answers are not stored", neutral=(None, False)),
    *refused(
        "previous_response_id",
        "previous_input_messages",
        "conversation",
        note="answers are not stored: send all of the input",
    ),
    *refused(
        "prompt",
        "access_programs",
        "background_options",
        "context_management",
        "image",
        "moderation",
        note="OpenAI's own",
    ),
)
_ANTHROPIC_PROMPT = (
    MODEL,
    bounded(
        "messages",
        shape.AnthropicMessages,
        f"1 to {shape.MAX_MESSAGES} messages, of text alone",
        is_needed=True,
    ),
    Field(
        name="system",
        fate=Fate.BOUNDED,
        shape=shape.AnthropicSystem,
        note="text alone",
    ),
    bounded("tools", shape.AnthropicTools, "tools that the client carries out"),
    large("output_config", VALUE_BYTES, shape.Object),
    *passed("thinking", "tool_choice"),
    *(row for row in TEMPLATE if row.name != "chat_template"),
    *ignored("cache_control", "speed", "user_profile_id", "workspace_id", note="Anthropic's own"),
)
MESSAGE = (
    *_ANTHROPIC_PROMPT,
    STREAM,
    Field(name="max_tokens", fate=Fate.BOUNDED, shape=shape.Limit, note=RANGES, is_needed=True),
    bounded("stop_sequences", shape.Stops, f"at most {shape.MAX_STOPS} strings of at most 1,000 characters"),
    *(row for row in NUMBERS_OF_SAMPLING if row.name in {"temperature", "top_p"}),
    bounded("top_k", shape.TopK, RANGES),
    *passed("mm_payload", "return_mm_kwargs", "watermarking"),
    OURS[0],
    *TRANSFER,
    *ignored("metadata", "service_tier", "inference_geo", "diagnostics", note="Anthropic's own"),
    *refused(
        "container",
        "context_management",
        "mcp_servers",
        "betas",
        "billing_policy",
        "compaction",
        "fallbacks",
        "fallback_credit_token",
        "thread",
        note="Anthropic's own",
        neutral=(None, []),
    ),
)
COUNT_TOKENS = _ANTHROPIC_PROMPT
TOKENIZE = (
    MODEL,
    replace(MESSAGES, is_needed=False, shape=shape.Messages | None),
    Field(name="prompt", fate=Fate.BOUNDED, shape=str | None, note="text"),
    large("tools", TOOLS_BYTES),
    *passed(
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "return_token_strs",
    ),
    *TEMPLATE,
    *(row for row in MEDIA if row.fate is Fate.REFUSED),
)
DETOKENIZE = (MODEL, bounded("tokens", shape.Tokens, "at most the base's context", is_needed=True))
SHAPED = "the log-probabilities would not be those of what was sampled from"
_SAMPLED = {
    *("temperature", "top_p", "top_k", "seed", "n", "max_tokens", "stop", "stop_token_ids"),
    *("routed_experts_prompt_start", "ignore_eos"),
}
SAMPLING_PARAMS = (
    *(row for row in SAMPLING if row.name in _SAMPLED),
    bounded("logprobs", shape.Alternatives, f"0 to {shape.MAX_ALTERNATIVES}"),
    bounded(
        "logprobs_mode",
        Literal["raw", "processed"] | None,
        "MinT's own: `raw` is the model's distribution, `processed` the one at the temperature",
    ),
    bounded("return_routed_experts", bool | None, "MinT's own: the experts of each token come with it"),
    *ignored(
        "detokenize",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_stop_str_in_output",
        "stream_interval",
        note="the answer is tokens",
    ),
    *refused(
        *("min_p", "presence_penalty", "frequency_penalty", "logit_bias", "min_tokens", "watermarking"),
        *("allowed_token_ids", "bad_words", "thinking_token_budget", "structured_outputs"),
        "repetition_detection",
        note=SHAPED,
        neutral=(None, 0, False, [], {}),
    ),
    *refused("repetition_penalty", note=SHAPED, neutral=(None, 1)),
    bounded("prompt_logprobs", type(None), "completions give those of a prompt"),
    *refused("logprob_token_ids", note="chat gives those of chosen tokens"),
    *refused(
        "extra_args",
        "output_kind",
        "output_text_buffer_length",
        "flat_logprobs",
        "skip_clone",
        "skip_reading_prefix_cache",
        "prompt_logprob_token_ids",
        "prompt_logprob_start",
        "trace_decode_token_ids",
        "_eos_token_id",
        "_all_stop_token_ids",
        "_watermarking_skipped",
        "_bad_words_token_ids",
        note="settings of the engine's own parts",
        neutral=(None, {}, False, 0),
    ),
)
"""The fields of ``sampling_params`` of a generate request."""
GENERATE = (
    MODEL,
    *refused("stream", note="an answer comes whole", neutral=(None, False)),
    *ignored("stream_options"),
    bounded("token_ids", shape.Tokens, "at most the base's context", is_needed=True),
    Field(name="sampling_params", fate=Fate.BOUNDED, note="a table of its own", is_needed=True),
    Field(name="return_token_ids", fate=Fate.PASSED, shape=bool | None),
    *refused("output_mode", note="the answer is tokens", neutral=(None, "tokens")),
    *ignored("reasoning_ended", note="there are no structured outputs here"),
    *ignored("cache_salt", "priority", note="verifiers' trainers may send them; each tenant has its own"),
    *ignored("token_offsets"),
    set_by_mint("request_id", "the engine's own"),
    *(row for row in TRANSFER if row.name != "vllm_xargs"),
    *refused("features", "content_parts", note="pictures and sounds are not read", neutral=(None, [])),
    *refused(
        "reasoning_parser_kwargs",
        "parse_context",
        note="settings of the engine's own parts",
        neutral=(None, {}),
    ),
)
TABLE: dict[Endpoint, tuple[Field, ...]] = {
    Endpoint.CHAT: CHAT,
    Endpoint.CHAT_TOKENS: CHAT_TOKENS,
    Endpoint.COMPLETION: COMPLETION,
    Endpoint.RESPONSE: RESPONSE,
    Endpoint.MESSAGE: MESSAGE,
    Endpoint.COUNT_TOKENS: COUNT_TOKENS,
    Endpoint.TOKENIZE: TOKENIZE,
    Endpoint.DETOKENIZE: DETOKENIZE,
    Endpoint.GENERATE: GENERATE,
}
PATHS: Mapping[Endpoint, str] = {
    Endpoint.CHAT: "/v1/chat/completions",
    Endpoint.CHAT_TOKENS: "/v1/chat/completions/tokens",
    Endpoint.COMPLETION: "/v1/completions",
    Endpoint.RESPONSE: "/v1/responses",
    Endpoint.MESSAGE: "/v1/messages",
    Endpoint.COUNT_TOKENS: "/v1/messages/count_tokens",
    Endpoint.TOKENIZE: "/tokenize",
    Endpoint.DETOKENIZE: "/detokenize",
    Endpoint.GENERATE: "/inference/v1/generate",
}
"""Where they are; an endpoint without a route is not served."""
