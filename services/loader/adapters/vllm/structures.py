"""Structures of answers, which xgrammar follows: a request ends when following its own takes too long.

xgrammar has no bound of its own. A step of an ambiguous structure, such as the pattern ``((a+)+)+`` nested
100 deep, takes seconds, and the engine computes nothing for anybody meanwhile.
"""

import time
from typing import Any

FREE_SECONDS = 0.25
SECONDS_A_TOKEN = 0.01
"""Of the processor, for one answer: a step of an ordinary schema takes well under a millisecond."""

_SPENT = "_mint_spent_seconds"


def bound_structures() -> None:
    """Have xgrammar refuse the next token of an answer whose structure took too long so far. Idempotent."""
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

    if XgrammarGrammar.accept_tokens.__module__ == __name__:
        return
    XgrammarGrammar.accept_tokens = _accepting(XgrammarGrammar.accept_tokens)
    XgrammarGrammar.fill_bitmask = _filling(XgrammarGrammar.fill_bitmask)


# Any: a grammar of vLLM and its methods; vllm has no types.
def _accepting(stock: Any) -> Any:
    def accept_tokens(grammar: Any, request_id: str, tokens: list[int]) -> bool:
        began = time.thread_time()
        is_accepted: bool = stock(grammar, request_id, tokens)
        spent = _add(grammar, time.thread_time() - began)
        return is_accepted and spent <= FREE_SECONDS + SECONDS_A_TOKEN * grammar.num_processed_tokens

    return accept_tokens


def _filling(stock: Any) -> Any:
    def fill_bitmask(grammar: Any, bitmask: Any, idx: int) -> None:
        began = time.thread_time()
        stock(grammar, bitmask, idx)
        _add(grammar, time.thread_time() - began)

    return fill_bitmask


def _add(grammar: Any, seconds: float) -> float:
    spent: float = getattr(grammar, _SPENT, 0.0) + seconds
    setattr(grammar, _SPENT, spent)
    return spent
