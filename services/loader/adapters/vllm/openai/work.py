"""The work that a request asks for, read from any of vLLM's request models. Any: vllm has no types."""

from collections.abc import Sequence
from typing import Any

from mint_common.errors import InvalidField
from mint_common.inference.sizes import entries_of, json_bytes
from services.loader.ports import ApiWork

MAX_PROMPT_BYTES = 32 << 20
"""Maximum bytes that prompts may add to an answer, which loader and gateway hold whole."""


def work_of(request: Any, prompt_lengths: Sequence[int], *, max_context: int) -> ApiWork:
    """Return the maximum work of a request with these prompts."""
    n = getattr(request, "n", None) or 1
    wanted = next(
        (
            value
            for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")
            if (value := getattr(request, name, None)) is not None
        ),
        max_context,
    )
    totals = [min(length + wanted, max_context) for length in prompt_lengths]
    return ApiWork(
        n=n,
        sequences=n * len(prompt_lengths),
        prompt_tokens=sum(prompt_lengths),
        tokens=n * sum(totals),
    )


def check_prompt_bytes(request: Any, work: ApiWork) -> None:
    """Refuse what repeats too much of its prompts in its answer. Raises InvalidField.

    A completion repeats them in each choice, a chat once.
    """
    is_completion = hasattr(request, "suffix")
    echo = bool(getattr(request, "echo", False))
    scored = asked = getattr(request, "prompt_logprobs", None)
    if echo and scored is None:
        scored = request.logprobs if is_completion else request.top_logprobs
    echoed = request.logprobs if echo and is_completion else None
    texts = echo + bool(getattr(request, "return_token_ids", False))
    copies = work.n if is_completion else 1
    entries = entries_of(scored) + entries_of(echoed)
    size_bytes = json_bytes(tokens=copies * work.prompt_tokens, entries=entries, texts=texts)
    if size_bytes > MAX_PROMPT_BYTES:
        field = "prompt_logprobs" if asked is not None else "echo" if echo else "return_token_ids"
        problem = (
            f"repeats up to {size_bytes >> 20} MiB of prompts in the answer, of which"
            f" {MAX_PROMPT_BYTES >> 20} MiB are allowed: leave it out, lower n, or send fewer tokens"
        )
        raise InvalidField(field=field, problem=problem)
