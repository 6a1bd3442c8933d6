"""Maximum sizes of prompts and answers, known before generation.

128 completions of 200 tokens with 20 log-probabilities each are 40 MB of JSON, which take gateway and loader
seconds, and several times as much memory.
"""

from mint_common.errors import InvalidField, MintError

TEXT_BYTES = 8
"""Bytes of a token as text or as its number, an upper estimate."""
ENTRY_BYTES = 75
"""Bytes of JSON for a token with its log-probability and text, as measured over a vocabulary."""
_PACKED_BYTES = 8
"""Bytes of a token with its log-probability as raw numbers."""


class ContextExceeded(MintError):
    """The prompt has {found} tokens, which leaves no room in the context of {max_context}."""

    code = "context_length_exceeded"
    http_status = 400


def json_bytes(*, tokens: int, entries: int, texts: int = 1) -> int:
    """Return the size of tokens in a JSON answer, each with ``entries`` log-probabilities."""
    return tokens * (TEXT_BYTES * texts + ENTRY_BYTES * entries)


def entries_of(likeliest: int | None) -> int:
    """Return the number of log-probabilities per token; ``likeliest`` None is without any."""
    return 0 if likeliest is None else 1 + likeliest


def packed_answer_bytes(
    *, sequences: int, new_tokens: int, likeliest: int, prompt_tokens: int, prompt_likeliest: int | None
) -> int:
    """Return the maximum size of a sample's answer; ``prompt_likeliest`` None is without the prompt's."""
    entries = sequences * new_tokens * (1 + likeliest) + prompt_tokens * entries_of(prompt_likeliest)
    return entries * _PACKED_BYTES


def check_answer_bytes(size_bytes: int, max_bytes: int, *, lower: tuple[str, ...]) -> None:
    """Refuse an answer that may become too large. ``lower`` are the fields to reduce, the most effective
    first.
    """
    if size_bytes > max_bytes:
        problem = (
            f"makes an answer of up to {size_bytes >> 20} MiB, of which {max_bytes >> 20} MiB are allowed: "
            f"lower {' or '.join(lower)}"
        )
        raise InvalidField(field=lower[0], problem=problem)


def check_context(field: str, tokens: object, max_context: int) -> None:
    """Refuse a list of tokens that alone exceeds the context. Raises ContextExceeded."""
    if isinstance(tokens, list | tuple) and len(tokens) > max_context:
        raise ContextExceeded(field=field, found=len(tokens), max_context=max_context)
