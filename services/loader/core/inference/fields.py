"""The accepted fields of vLLM's request models, by operation.

A new field of vLLM is one name here. A test lists the fields of the installed vLLM that no rule names.
vLLM's models check the values; a kind here limits what they do not, or would read from text.
"""

from collections.abc import Mapping
from typing import Any

from mint_common.inference.fields import (
    MAX_CHOICES,
    Alternatives,
    Choices,
    FieldRules,
    Int64,
    Stops,
    StopTokens,
    TokenCount,
    TopK,
    accepted,
    refused,
)
from mint_common.inference.operations import ApiOperation
from services.loader.core.inference import contents

TOOLS_BYTES = 256 << 10

_IGNORED = "no effect"
_OF_OPENAI, _OF_ANTHROPIC = "OpenAI's own", "Anthropic's own"
_MODEL = accepted("model", str, note="a name of a base, policy or revision; the answer repeats it")
_NUMBERS = accepted("temperature top_p", float)
_PENALTIES = accepted("min_p presence_penalty frequency_penalty repetition_penalty", float)
_TOKENS = {
    **accepted("top_k", TopK),
    **accepted("seed", Int64),
    **accepted("logit_bias", contents.Biases),
    **accepted("stop", Stops),
    **accepted("stop_token_ids", StopTokens),
}
_STRUCTURED_OUTPUTS = accepted("structured_outputs", contents.StructuredOutputs)
_OURS = {
    **refused("cache_salt", "each tenant has its own"),
    **refused("priority", "tenants take turns instead", 0),
    **refused("request_id", "the engine's own"),
}
_PARTS = "settings of the engine's own parts"
_TRANSFER = refused("kv_transfer_params ec_transfer_params vllm_xargs", _PARTS, {})
_NO_MEDIA = refused("media_io_kwargs mm_processor_kwargs", "pictures and sounds are not read", {})
_MEDIA = accepted("mm_payload return_mm_kwargs")
_TEMPLATE = accepted("chat_template_kwargs", contents.TemplateValues)
_OWN_TEMPLATE = refused("chat_template", "the base's own is used")
_OPENAI_IGNORED = {
    **accepted("user metadata store service_tier safety_identifier prompt_cache_key", note=_IGNORED),
    **accepted("prompt_cache_options prompt_cache_retention", note=_IGNORED),
}
_GENERATING: FieldRules = {
    **_MODEL,
    **accepted("stream", bool),
    **accepted("stream_options", contents.StreamExtras),
    **_NUMBERS,
    **_PENALTIES,
    **accepted("length_penalty", float),
    **_TOKENS,
    **accepted("n", Choices),
    **accepted("prompt_logprobs", Alternatives),
    **accepted("logprob_token_ids", StopTokens),
    **accepted("max_tokens min_tokens stream_interval routed_experts_prompt_start", TokenCount),
    **accepted("thinking_token_budget truncate_prompt_tokens", Int64),
    **accepted("allowed_token_ids", contents.TokenSet),
    **accepted("bad_words", contents.Words, max_bytes=None),
    **accepted("repetition_detection", contents.RepetitionDetection, note="patterns of at most 256 tokens"),
    **accepted("include_stop_str_in_output ignore_eos skip_special_tokens spaces_between_special_tokens"),
    **accepted("watermarking session_id add_special_tokens truncation_side return_tokens_as_token_ids"),
    **accepted("return_token_ids return_token_offsets return_weight_versions"),
    **_STRUCTURED_OUTPUTS,
    **accepted("response_format", dict),
    **accepted("user", note=_IGNORED),
    **_OURS,
    **_TRANSFER,
    **_MEDIA,
    **refused("use_beam_search", "a beam is no sample", False),
}
_MESSAGES = accepted("messages", contents.Messages, max_bytes=None)
_TOOLS = accepted("tools", max_bytes=TOOLS_BYTES, note=f"at most {TOOLS_BYTES >> 10} KiB")
_TOKEN_PROMPT = accepted("tokens", contents.Tokens, max_bytes=None)
_CHAT: FieldRules = {
    **_GENERATING,
    **_MESSAGES,
    **_NO_MEDIA,
    **_TEMPLATE,
    **_OWN_TEMPLATE,
    **_OPENAI_IGNORED,
    **_TOOLS,
    **accepted("max_completion_tokens", TokenCount),
    **accepted("logprobs", bool),
    **accepted("top_logprobs", Alternatives),
    **accepted("echo", bool, note="not with `stream`"),
    **accepted("documents tool_choice parallel_tool_calls reasoning_effort include_reasoning"),
    **accepted("add_generation_prompt continue_final_message return_prompt_text"),
    **refused("functions", "the older form of `tools`", []),
    **refused("function_call", "the older form of `tool_choice`", "none"),
    **refused("modalities", "answers are text", ["text"]),
    **refused("audio prediction web_search_options moderation", _OF_OPENAI),
    **refused("verbosity", _OF_OPENAI, "medium"),
}
_PROMPTS = f"at most {MAX_CHOICES} texts or lists of tokens, each within the base's context"
_COMPLETION: FieldRules = {
    **_GENERATING,
    **accepted("prompt", str | list[Any], note=_PROMPTS, max_bytes=None),
    **accepted("logprobs", Alternatives),
    **accepted("echo"),
    **refused("suffix", "no base here fills in", ""),
    **refused("best_of", "ask for `n`", 1),
    **refused("prompt_embeds", "a prompt is text or tokens", []),
}
_NOT_STORED = "answers are not stored: send all of the input"
_RESPONSE: FieldRules = {
    **_MODEL,
    **accepted("stream", bool),
    **_NUMBERS,
    **_PENALTIES,
    **_TOKENS,
    **accepted(
        "input", contents.ResponseInput, note="text, or items of text without refusals", max_bytes=None
    ),
    **accepted("tools", contents.ResponseTools, max_bytes=None),
    **accepted("instructions", max_bytes=None),
    **accepted("max_output_tokens", TokenCount),
    **accepted("max_tool_calls", Int64),
    **accepted("top_logprobs", Alternatives),
    **accepted("text", dict),
    **_STRUCTURED_OUTPUTS,
    **accepted("include reasoning include_reasoning tool_choice parallel_tool_calls truncation"),
    **accepted("skip_special_tokens spaces_between_special_tokens include_stop_str_in_output ignore_eos"),
    **accepted("watermarking session_id enable_response_messages"),
    **_OURS,
    **_TRANSFER,
    **_NO_MEDIA,
    **_MEDIA,
    **_TEMPLATE,
    **_OPENAI_IGNORED,
    **accepted("stream_options", note=_IGNORED),
    **refused("background", _NOT_STORED, False),
    **refused("previous_response_id previous_input_messages conversation", _NOT_STORED),
    **refused("prompt access_programs background_options context_management image moderation", _OF_OPENAI),
}
_COUNT_TOKENS: FieldRules = {
    **_MODEL,
    **accepted("messages", contents.AnthropicMessages, max_bytes=None),
    **accepted("system", contents.AnthropicText, note="text alone", max_bytes=None),
    **accepted("tools", contents.AnthropicTools, max_bytes=None),
    **accepted("output_config", dict),
    **accepted("thinking tool_choice"),
    **_TEMPLATE,
    **accepted("cache_control speed user_profile_id workspace_id", note=_IGNORED),
}
_MESSAGE: FieldRules = {
    **_COUNT_TOKENS,
    **accepted("stream", bool),
    **accepted("max_tokens", TokenCount),
    **accepted("stop_sequences", Stops),
    **accepted("top_k", TopK),
    **_NUMBERS,
    **_MEDIA,
    **accepted("watermarking"),
    **_TRANSFER,
    **refused("cache_salt", "each tenant has its own"),
    **accepted("metadata service_tier inference_geo diagnostics", note=_IGNORED),
    **refused("container context_management mcp_servers betas billing_policy", _OF_ANTHROPIC, []),
    **refused("compaction fallbacks fallback_credit_token thread", _OF_ANTHROPIC, []),
}
_TOKENIZE: FieldRules = {
    **_MODEL,
    **_MESSAGES,
    **accepted("prompt", str, note="text", max_bytes=None),
    **_TOOLS,
    **accepted("add_generation_prompt continue_final_message add_special_tokens return_token_strs"),
    **_TEMPLATE,
    **_OWN_TEMPLATE,
    **_NO_MEDIA,
}
FIELDS: Mapping[ApiOperation, FieldRules] = {
    ApiOperation.CHAT: _CHAT,
    ApiOperation.CHAT_TOKENS: {**_CHAT, **_TOKEN_PROMPT},
    ApiOperation.RENDER_CHAT: _CHAT,
    ApiOperation.COMPLETION: _COMPLETION,
    ApiOperation.RESPONSE: _RESPONSE,
    ApiOperation.MESSAGE: _MESSAGE,
    ApiOperation.COUNT_TOKENS: _COUNT_TOKENS,
    ApiOperation.TOKENIZE: _TOKENIZE,
    ApiOperation.DETOKENIZE: {**_MODEL, **_TOKEN_PROMPT},
    ApiOperation.TOKENIZER_INFO: _MODEL,
}
NEVER_IN_TEMPLATES = frozenset(
    {
        *("self", "chat_template", "tokenize", "tools", "documents", "conversation", "messages", "padding"),
        *("truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        *("tokenizer_kwargs", "processor_kwargs"),
    }
)
"""Arguments of transformers' ``apply_chat_template``, which are not values of a template."""
