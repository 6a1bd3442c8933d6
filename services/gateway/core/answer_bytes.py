"""How large an answer may become, told before anything of it is generated.

128 completions of 200 tokens with 20 log-probabilities each are 40 MB of JSON, on which gateway and loader
work for seconds, and which take several times as much memory on the way.
"""

from mint_common.errors import InvalidField

_TEXT_BYTES = 8
"""What a generated token's text takes, generously."""
_ENTRY_BYTES = 75
"""What JSON takes of a token with its log-probability and bytes, as measured over a vocabulary."""
_PACKED_BYTES = 8
"""What a token with its log-probability takes as raw numbers."""


def json_answer_bytes(*, choices: int, new_tokens: int, likeliest: int | None) -> int:
    """Return how large an OpenAI answer may become; ``likeliest`` None is without log-probabilities."""
    entries = 0 if likeliest is None else 1 + likeliest
    return choices * new_tokens * (_TEXT_BYTES + _ENTRY_BYTES * entries)


def packed_answer_bytes(
    *, sequences: int, new_tokens: int, likeliest: int, prompt_tokens: int, prompt_likeliest: int | None
) -> int:
    """Return how large a sample's answer may become; ``prompt_likeliest`` None is without the prompt's."""
    prompt_entries = 0 if prompt_likeliest is None else 1 + prompt_likeliest
    entries = sequences * new_tokens * (1 + likeliest) + prompt_tokens * prompt_entries
    return entries * _PACKED_BYTES


def check_answer_bytes(size_bytes: int, most_bytes: int, *, lower: tuple[str, ...]) -> None:
    """Refuse what may become too large. ``lower`` are the fields that make it so, the first one most."""
    if size_bytes > most_bytes:
        problem = (
            f"makes an answer of up to {size_bytes >> 20} MiB, of which {most_bytes >> 20} MiB are allowed: "
            f"lower {' or '.join(lower)}"
        )
        raise InvalidField(field=lower[0], problem=problem)
