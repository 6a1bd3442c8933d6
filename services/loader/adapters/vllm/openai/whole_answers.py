"""Whole answers whose log-probabilities are computed and encoded per choice, outside the event loop.

vLLM computes those of all choices at once: for 128 with 150 tokens and 20 log-probabilities each in 5 s, in
which the loader could not answer.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from mint_common.runtime.fair_gate import LoopGate
from services.loader.adapters.vllm.openai.operations import ServingMethod

MAX_AT_ONCE = 512
"""Maximum log-probabilities of an answer that are rendered on the event loop, in some 5 ms."""


class WholeAnswer:
    """An answer that is not streamed. Any, here and below: vllm has no types."""

    def __init__(self, method: ServingMethod) -> None:
        self._dump_options = {"by_alias": True, "exclude_none": not method.has_nulls}
        self._made = 0
        self._later: dict[int, tuple[Any, Callable[[], Any]]] = {}

    def keep_for_later(self, serving: Any) -> None:
        """Have a serving object, one call's own, leave log-probabilities out until the answer is encoded."""
        for name, kind in _makers():
            if hasattr(serving, name):
                setattr(serving, name, partial(self._make, getattr(serving, name), kind))

    def _make(self, make: Any, kind: Any, *args: Any, top_logprobs: Any, **options: Any) -> Any:
        """Return a choice's log-probabilities, or a placeholder until they are computed."""
        self._made += sum(len(step or ()) for step in top_logprobs)
        now = partial(make, *args, top_logprobs=top_logprobs, **options)
        if self._made <= MAX_AT_ONCE:
            return now()
        empty = kind()
        self._later[id(empty)] = empty, now
        return empty

    async def encode(self, answer: Any, *, tenant: str, turns: LoopGate) -> bytes:
        """Return an answer as JSON; the choices of several tenants take turns."""
        if not self._later:
            return self._encoded(answer)
        choices, answer.choices = answer.choices, []
        encoded = []
        for choice in choices:
            async with turns.turn(tenant):
                encoded.append(await asyncio.to_thread(self._complete, choice))
        # In a text, which may be the client's, the quotes would be escaped.
        before, none, after = self._encoded(answer).partition(b'"choices":[]')
        assert none, "an answer without choices"
        return b"".join([before, b'"choices":[', b",".join(encoded), b"]", after])

    def _complete(self, choice: Any) -> bytes:
        if id(choice.logprobs) in self._later:
            _, make = self._later.pop(id(choice.logprobs))
            choice.logprobs = make()
        return self._encoded(choice)

    def _encoded(self, model: Any) -> bytes:
        return model.model_dump_json(**self._dump_options).encode()  # type: ignore[no-any-return]


def _makers() -> list[tuple[str, Any]]:
    """Return which methods of vLLM's serving classes make log-probabilities, and of which type."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs
    from vllm.entrypoints.openai.completion.protocol import CompletionLogProbs

    return [
        ("_create_chat_logprobs", ChatCompletionLogProbs),
        ("_create_completion_logprobs", CompletionLogProbs),
    ]
