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
    ignored,
    refused,
)
from mint_common.inference.operations import ApiOperation
from services.loader.core.inference import contents

TOOLS_BYTES = 256 << 10

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
_WHOLE = "the whole conversation is used: a longer one than the context is a 400"
_USER = ignored("user safety_identifier", "no user of yours is known here")
_OPENAI_IGNORED = {
    **_USER,
    **ignored("metadata store", "answers are not stored"),
    **ignored("service_tier", "there is one tier"),
    **ignored(
        "prompt_cache_key prompt_cache_options prompt_cache_retention", "a tenant's prompts share a cache"
    ),
    **ignored("prediction", "changes the time of an answer only"),
    **ignored("verbosity", "no base has it: write it into the prompt"),
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
    **_USER,
    **_OURS,
    **_TRANSFER,
    **_MEDIA,
    **refused("use_beam_search", "answers are sampled, not searched for: ask for `n` samples", False),
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
    **refused("audio web_search_options moderation", _OF_OPENAI),
}
_OF_BATCHES = (
    "model frequency_penalty presence_penalty repetition_penalty length_penalty logit_bias logprobs"
    " top_logprobs logprob_token_ids max_tokens max_completion_tokens min_p temperature top_p top_k seed stop"
    " response_format structured_outputs user include_reasoning include_stop_str_in_output echo"
    " add_generation_prompt continue_final_message chat_template chat_template_kwargs media_io_kwargs"
    " mm_processor_kwargs priority cache_salt request_id return_token_ids return_tokens_as_token_ids"
    " use_beam_search watermarking"
)
_ONE_CHAT = "ask for each chat by itself"
_BATCH: FieldRules = {
    **{name: _CHAT[name] for name in _OF_BATCHES.split()},
    **accepted("messages", contents.Conversations, max_bytes=None),
    **refused("n best_of", _ONE_CHAT, 1),
    **refused("stream early_stopping", _ONE_CHAT, False),
    **refused("tools", _ONE_CHAT, []),
    **refused("tool_choice", _ONE_CHAT, "none"),
    **refused("guided_decoding_backend", _PARTS),
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
    **accepted("metadata service_tier user", note="the answer repeats it"),
    **ignored("stream_options", "events have no padding"),
    **ignored("context_management", _WHOLE),
    **refused("background", _NOT_STORED, False),
    **refused("previous_response_id previous_input_messages conversation", _NOT_STORED),
    **refused("prompt access_programs background_options image moderation", _OF_OPENAI),
}
_COUNT_TOKENS: FieldRules = {
    **_MODEL,
    **accepted("messages", contents.AnthropicMessages, max_bytes=None),
    **accepted("system", contents.AnthropicText, note="text alone", max_bytes=None),
    **accepted("tools", contents.AnthropicTools, max_bytes=None),
    **accepted("output_config", dict),
    **accepted("thinking tool_choice"),
    **_TEMPLATE,
    **ignored("cache_control", "every prompt is cached"),
    **ignored("speed", "there is one"),
    **ignored("user_profile_id workspace_id", "no account of Anthropic's is used"),
    **ignored("context_management", _WHOLE),
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
    **ignored("metadata", "no user of yours is known here"),
    **ignored("service_tier inference_geo", "there is one tier in one place"),
    **ignored("billing_policy fallback_credit_token", "nothing is billed"),
    **ignored("fallbacks", "no base declines an answer"),
    **ignored("diagnostics", "no earlier answer is stored to compare with"),
    **refused("container mcp_servers betas compaction", _OF_ANTHROPIC, []),
    **refused("thread", _NOT_STORED),
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
_READ_CHAT: FieldRules = {
    **_MODEL,
    **accepted("generate_response chat_request", dict, max_bytes=None),
    **accepted("prompt_token_ids", contents.Tokens, max_bytes=None),
    **accepted("prompt_tokens", TokenCount),
    **refused("stream", "an answer comes whole", False),
}
_REPLAY: FieldRules = {
    **_MODEL,
    **accepted("request", dict, max_bytes=None),
    **accepted("prompt_token_ids token_ids", contents.Tokens, max_bytes=None),
    **accepted("logprobs", list[float], max_bytes=None),
    **accepted("finish_reason", str),
}
"""Fields of the services' own requests, which no public route takes; a replayed one was prepared before."""
FIELDS: Mapping[ApiOperation, FieldRules] = {
    ApiOperation.CHAT: _CHAT,
    ApiOperation.CHAT_TOKENS: {**_CHAT, **_TOKEN_PROMPT},
    ApiOperation.CHAT_BATCH: _BATCH,
    ApiOperation.RENDER_CHAT: _CHAT,
    ApiOperation.READ_CHAT: _READ_CHAT,
    ApiOperation.PREPARE_RESPONSE: _RESPONSE,
    ApiOperation.REPLAY_RESPONSE: _REPLAY,
    ApiOperation.PREPARE_MESSAGE: _MESSAGE,
    ApiOperation.REPLAY_MESSAGE: _REPLAY,
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
