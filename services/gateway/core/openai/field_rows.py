"""Rows of the table of fields, and those that several endpoints share."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from services.gateway.core.openai import field_shapes as shape

PROMPT_BYTES = 4 << 20
"""Of a field that holds a prompt: a context of a million tokens as text."""
VALUE_BYTES = 64 << 10
"""Of a field that holds no prompt."""
TOOLS_BYTES = 256 << 10


class Fate(StrEnum):
    """What becomes of a field."""

    PASSED = "passed"
    """As it is, to vLLM."""
    BOUNDED = "bounded"
    """Passed within a bound."""
    SET = "set by MinT"
    """A client's own value is refused."""
    IGNORED = "ignored"
    """Taken, since clients send it; changes nothing."""
    REFUSED = "refused"
    """Only a value that asks for nothing is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A row: ``note`` is a bound or a reason; ``neutral`` values of a refused field ask for nothing."""

    name: str
    fate: Fate
    note: str = ""
    shape: Any = msgspec.Raw  # a type that msgspec reads
    neutral: tuple[object, ...] = (None,)
    is_needed: bool = False
    most_bytes: int = VALUE_BYTES


def passed(*names: str) -> tuple[Field, ...]:
    """Return rows of fields that go to vLLM as they are."""
    return tuple(Field(name=name, fate=Fate.PASSED) for name in names)


def ignored(*names: str, note: str = "") -> tuple[Field, ...]:
    """Return rows of fields that are taken and change nothing."""
    return tuple(Field(name=name, fate=Fate.IGNORED, note=note) for name in names)


def refused(*names: str, note: str, neutral: tuple[object, ...] = (None,)) -> tuple[Field, ...]:
    """Return rows of fields that are refused for one reason."""
    return tuple(Field(name=name, fate=Fate.REFUSED, note=note, neutral=neutral) for name in names)


def set_by_mint(name: str, note: str, neutral: tuple[object, ...] = (None,)) -> Field:
    """Return the row of a field that MinT sets."""
    return Field(name=name, fate=Fate.SET, note=note, neutral=neutral)


def bounded(name: str, kind: Any, note: str, *, is_needed: bool = False) -> Field:  # kind: see Field.shape
    """Return the row of a field that is passed when it has a shape."""
    return Field(name=name, fate=Fate.BOUNDED, shape=kind, note=note, is_needed=is_needed)


def large(name: str, most_bytes: int, kind: Any = msgspec.Raw) -> Field:  # kind: see Field.shape
    """Return the row of a field that is passed up to a size."""
    note = f"at most {most_bytes >> 10} KiB"
    return Field(name=name, fate=Fate.BOUNDED, note=note, shape=kind, most_bytes=most_bytes)


MODEL = Field(
    name="model",
    fate=Fate.SET,
    shape=str,
    is_needed=True,
    note="a name of a base, policy or revision; the answer repeats it",
)
STREAM = Field(name="stream", fate=Fate.PASSED, shape=bool | None)
STREAM_OPTIONS = Field(name="stream_options", fate=Fate.PASSED, shape=shape.StreamExtras | None)
RANGES = "within what the engine's integers hold"
NUMBERS = "a finite number"

OURS = (
    set_by_mint("cache_salt", "each tenant has its own"),
    set_by_mint("priority", "tenants take turns instead", (None, 0)),
    set_by_mint("request_id", "the engine's own"),
)
TRANSFER = refused(
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    note="settings of the engine's own parts",
    neutral=(None, {}),
)
MEDIA = (
    *refused(
        "media_io_kwargs", "mm_processor_kwargs", note="pictures and sounds are not read", neutral=(None, {})
    ),
    *passed("mm_payload", "return_mm_kwargs"),
)
TEMPLATE = (
    *refused("chat_template", note="the base's own is used"),
    bounded(
        "chat_template_kwargs",
        shape.TemplateValues,
        f"at most {shape.MAX_TEMPLATE_VALUES} numbers, flags and short texts, such as `enable_thinking`; "
        "no argument of the tokenizer itself",
    ),
)
NEVER_IN_TEMPLATES = frozenset(
    {
        "self",
        "chat_template",
        "tokenize",
        "tools",
        "documents",
        "conversation",
        "messages",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "processor_kwargs",
    }
)
"""Arguments of transformers' ``apply_chat_template``, which are not values of a template."""

STRUCTURED_OUTPUTS = bounded(
    "structured_outputs",
    shape.StructuredOutputs | None,
    f"at most {VALUE_BYTES >> 10} KiB",
)
STRUCTURE = (STRUCTURED_OUTPUTS, large("response_format", VALUE_BYTES, shape.Object))
NUMBERS_OF_SAMPLING = tuple(
    bounded(name, shape.Number, NUMBERS)
    for name in (
        "temperature",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    )
)
TOKEN_BOUNDS = (
    bounded("top_k", shape.TopK, RANGES),
    bounded("seed", shape.Int, RANGES),
    bounded("logit_bias", shape.Biases, f"at most {shape.MAX_BIASES} tokens"),
    bounded("stop", shape.Stops, f"at most {shape.MAX_STOPS} strings of at most 1,000 characters"),
    bounded("stop_token_ids", shape.StopTokens, f"at most {shape.MAX_STOP_TOKENS} tokens"),
)
SAMPLING = (
    *NUMBERS_OF_SAMPLING,
    *TOKEN_BOUNDS,
    bounded("n", shape.Choices, f"1 to {shape.MAX_CHOICES}, over all prompts"),
    bounded("max_tokens", shape.Limit, RANGES),
    bounded("min_tokens", shape.Limit, RANGES),
    bounded("prompt_logprobs", shape.Alternatives, f"0 to {shape.MAX_ALTERNATIVES}"),
    bounded("logprob_token_ids", shape.StopTokens, f"at most {shape.MAX_STOP_TOKENS} tokens"),
    bounded("allowed_token_ids", shape.TokenSet, f"at most {shape.MAX_BIASES} tokens"),
    bounded("bad_words", shape.Words, "at most 128 words of at most 1,000 characters"),
    bounded("thinking_token_budget", shape.Int, RANGES),
    bounded("stream_interval", shape.Limit, RANGES),
    bounded("routed_experts_prompt_start", shape.Limit, RANGES),
    bounded("repetition_detection", shape.RepetitionDetection | None, "patterns of at most 256 tokens"),
    *passed(
        "include_stop_str_in_output",
        "ignore_eos",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "watermarking",
    ),
)
GENERATING = (
    MODEL,
    STREAM,
    STREAM_OPTIONS,
    *SAMPLING,
    *STRUCTURE,
    *OURS,
    *TRANSFER,
    *ignored("user"),
    *refused("use_beam_search", note="a beam is no sample", neutral=(None, False)),
    *passed(
        "session_id",
        "add_special_tokens",
        "truncation_side",
        "return_tokens_as_token_ids",
        "return_token_ids",
        "return_token_offsets",
        "return_weight_versions",
    ),
    bounded("length_penalty", shape.Number, NUMBERS),
    bounded("truncate_prompt_tokens", shape.Int, RANGES),
)
