"""The tokenizer: texts as token ids, off the event loop but for short prompts; texts of single tokens."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

from mint_common.ids import TenantId
from mint_common.runtime.fair_gate import LoopGate


class Tokenizing:
    """One thread over a tokenizer of transformers, the tenants in turn: a fast one is not safe to share."""

    def __init__(self, tokenizer: Any) -> None:  # Any: vllm has no types
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._turns = LoopGate()

    async def tokenize(self, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        """Return the token ids of a text."""
        loop = asyncio.get_running_loop()
        async with self._turns.turn(tenant_id or ""):
            return await loop.run_in_executor(self._thread, self._tokenize, text)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text))


_SHORT_CHARACTERS = 512
"""Maximum characters tokenized in one iteration of the event loop, all texts together: some 0.5 ms."""
_MIN_CHARACTERS = 64
"""Minimum characters that a text counts with."""


def tokenizing_short_texts_at_once(renderer: Any) -> Any:  # Any: vllm has no types
    """Return a copy of a renderer of vLLM's that gives no short text to its thread.

    A prompt of a line takes 0.1 ms. The way to the thread and back takes two waits for a processor, during
    which no other request is rendered: of busy ones that was 30 ms and more.
    """
    at_once, beside = renderer._tokenize_prompt, renderer._tokenize_prompt_async  # noqa: SLF001
    quick = copy(renderer)
    characters = 0  # in this iteration

    def begin_iteration() -> None:
        nonlocal characters
        characters = 0

    async def tokenize(prompt: Any, params: Any) -> Any:
        nonlocal characters
        if not characters:
            asyncio.get_running_loop().call_soon(begin_iteration)
        counted = max(_MIN_CHARACTERS, len(prompt["prompt"]))
        if characters + counted > _SHORT_CHARACTERS:
            return await beside(prompt, params)
        characters += counted
        return at_once(prompt, params)

    quick._tokenize_prompt_async = tokenize  # noqa: SLF001
    return quick


def remember_texts(tokenizer: Any) -> None:  # Any: a tokenizer of transformers
    """Let a tokenizer decode each token on its own once; the cache is limited to its vocabulary. Idempotent.

    Log-probabilities name up to 21 tokens per position, and decoding one takes 14 us: for 64 completions that
    is 18 ms per step, in which the loader answers nothing.
    """
    if "decode" in vars(tokenizer):
        return
    decode = tokenizer.decode
    texts: dict[int, str] = {}

    def remembering(tokens: Any, *args: Any, **options: Any) -> Any:
        if args or options or not isinstance(tokens, list) or len(tokens) != 1:
            return decode(tokens, *args, **options)
        text = texts.get(tokens[0])
        if text is None:
            text = texts[tokens[0]] = decode(tokens)
        return text

    tokenizer.decode = remembering
