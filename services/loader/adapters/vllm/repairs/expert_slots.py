"""Clear only the needed part of a slot of a layer's experts before another adapter is copied into it.

vLLM writes zeros over all of a slot, at the engine's largest rank, before it copies an adapter of any rank
into it: more than half of a packed adapter's time in the engine's loop. Zeros are needed only where
the last adapter reached and the next one does not.

Invariants: a slot ends up exactly as vLLM alone would have left it; one that other code has written to is
cleared as vLLM does it, and so is every slot on a vLLM that the plugin does not name (`CLEAR_SLOTS`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.lora.layers import FusedMoEWithLoRA

from services.loader.adapters.vllm_plugin import CLEAR_SLOTS, is_tested

_RANKS = "_mint_rank_of_slot"


@contextmanager
def cleared_sparingly(module: Any, index: int, layer: Any) -> Iterator[None]:  # Any: vllm has no types
    """Let a wrapper's `set_lora` of this layer inside the body clear no more of the slot than it must."""
    if type(module) is not FusedMoEWithLoRA or not is_tested(CLEAR_SLOTS):
        yield
        return
    ranks = _watch(module)
    last, rank = ranks.pop(index, None), _rank(layer)
    if last is None or rank is None:
        yield  # its own clearing, which leaves the slot unknown
    else:
        clear = module.reset_lora
        module.reset_lora = lambda at: _clear(module, at, ranks=range(rank, last))
        try:
            yield
        finally:
            module.reset_lora = clear
    if rank is not None:
        ranks[index] = rank


def _watch(module: Any) -> dict[int, int]:
    """Return the ranks in the slots; a slot that vLLM clears by itself becomes unknown."""
    known: dict[int, int] | None = module.__dict__.get(_RANKS)
    if known is not None:
        return known
    ranks: dict[int, int] = {}
    module.__dict__[_RANKS] = ranks
    clear = module.reset_lora

    def clear_and_forget(index: int) -> None:
        ranks.pop(index, None)
        clear(index)

    module.reset_lora = clear_and_forget
    return ranks


def _rank(layer: Any) -> int | None:
    """Return the one rank of all projections, which are all there."""
    parts = [*((a, -2) for a in layer.lora_a), *((b, -1) for b in layer.lora_b)]
    if any(tensor is None or tensor.dim() != 3 for tensor, _ in parts):  # experts, and a matrix
        return None
    ranks = {tensor.shape[side] for tensor, side in parts}
    return int(ranks.pop()) if len(ranks) == 1 else None


def _clear(module: Any, index: int, *, ranks: range) -> None:
    module.adapter_enabled[index] = 0
    if not ranks:
        return
    rows = slice(ranks.start, ranks.stop)
    for stacked in (*module.w13_lora_a_stacked, *module.w2_lora_a_stacked):
        stacked[index, :, rows] = 0
    for stacked in (*module.w13_lora_b_stacked, *module.w2_lora_b_stacked):
        stacked[index, :, :, rows] = 0
