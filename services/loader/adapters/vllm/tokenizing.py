"""The tokenizer: texts as token ids, off the event loop; texts of single tokens."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mint_common.ids import TenantId
from services.loader.adapters.vllm.tenant_turns import TenantTurns


class Tokenizing:
    """One thread over a tokenizer of transformers, the tenants in turn: a fast one is not safe to share."""

    def __init__(self, tokenizer: Any) -> None:  # Any: vllm has no types
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._turns = TenantTurns()

    async def tokenize(self, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        """Return the token ids of a text."""
        loop = asyncio.get_running_loop()
        async with self._turns.taken(tenant_id or ""):
            return await loop.run_in_executor(self._thread, self._tokenize, text)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text))


def remember_texts(tokenizer: Any) -> None:  # Any: a tokenizer of transformers
    """Let a tokenizer decode each token on its own once; at most its vocabulary is kept. Idempotent.

    Log-probabilities name up to 21 tokens a position, and decoding one takes 14 us: of 64 completions that is
    18 ms a step, in which the loader answers nobody.
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
