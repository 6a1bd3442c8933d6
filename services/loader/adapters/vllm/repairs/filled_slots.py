"""Fill a slot of a layer by one call, if it held an adapter of the same shapes before.

vLLM clears a slot, slice by slice, and then copies an adapter's tensors, each into a view made for it: most
of a dense adapter's time in the engine's loop. Over an adapter of the same shapes
nothing must be cleared, the views are reused, and all tensors are copied at once.

Invariants: a slot ends up exactly as vLLM alone would have left it; one that other code has written to or
cleared is filled as vLLM does it, and so is every slot on a vLLM that the plugin does not name
(`FILL_SLOTS`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import (
    ColumnParallelLinearWithLoRA,
    FusedMoEWithLoRA,
    MergedColumnParallelLinearWithLoRA,
    MergedQKVParallelLinearWithLoRA,
    QKVParallelLinearWithLoRA,
    RowParallelLinearWithLoRA,
)

from services.loader.adapters.vllm.copies import copy_all
from services.loader.adapters.vllm_plugin import FILL_SLOTS, is_tested

_DENSE = frozenset(
    {
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
        MergedQKVParallelLinearWithLoRA,
        QKVParallelLinearWithLoRA,
        RowParallelLinearWithLoRA,
    }
)
_FILLED = "_mint_filled_slots"

Shapes = tuple[torch.Size | None, ...]


@dataclass(frozen=True, slots=True)
class Filled:
    """Content of a slot: its adapter's shapes, None for a slice without one, and its tensors' places."""

    shapes: Shapes
    places: list[Tensor]


def fill(module: Any, index: int, layer: Any) -> bool:  # Any, here and below: vllm has no types
    """Copy a layer's weights over those of the same shapes; False, and nothing done, where others are."""
    known = module.__dict__.get(_FILLED)
    filled = known.get(index) if known is not None else None
    if filled is None:
        return False
    tensors = _tensors(layer)
    if filled.shapes != _shapes(tensors):
        del known[index]
        return False
    copy_all(filled.places, [each for each in tensors if each is not None])
    return True


def note(module: Any, index: int, layer: Any) -> None:
    """Remember what vLLM's own way has just put into a slot."""
    tensors, stacked = _tensors(layer), _stacked(module)
    if len(tensors) != len(stacked):
        return  # a kind that is not known, or one that has divided it into slices on its way
    places = [
        place[index].narrow(-2, 0, each.shape[-2]).narrow(-1, 0, each.shape[-1])
        for place, each in zip(stacked, tensors, strict=True)
        if each is not None
    ]
    present = [each for each in tensors if each is not None]
    if all(_fits(place, each) for place, each in zip(places, present, strict=True)):
        _watched(module)[index] = Filled(_shapes(tensors), places)


def _stacked(module: Any) -> tuple[Tensor, ...]:
    """Return the slots' memory in the order of a layer's weights; nothing of a kind that is not known."""
    if not is_tested(FILL_SLOTS):
        return ()
    if type(module) in _DENSE:
        return (*module.lora_a_stacked, *module.lora_b_stacked)
    if type(module) is FusedMoEWithLoRA and module._w13_slices == 2:  # noqa: SLF001
        a, b = module.w13_lora_a_stacked, module.w13_lora_b_stacked
        # vLLM's order: gate, down, up.
        return (a[0], *module.w2_lora_a_stacked, a[1], b[0], *module.w2_lora_b_stacked, b[1])
    return ()


def _fits(place: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor is copied as it is: a slot of a linear layer has one dimension more."""
    shape = tuple(tensor.shape)
    return tuple(place.shape) == (shape if tensor.dim() == place.dim() else (1, *shape))


def _watched(module: Any) -> dict[int, Filled]:
    """Return the slots' content; one that is cleared, as vLLM does before it fills one, becomes unknown."""
    known: dict[int, Filled] | None = module.__dict__.get(_FILLED)
    if known is not None:
        return known
    filled: dict[int, Filled] = {}
    module.__dict__[_FILLED] = filled
    clear = module.reset_lora

    def clear_and_forget(index: int) -> None:
        filled.pop(index, None)
        clear(index)

    module.reset_lora = clear_and_forget
    return filled


def _tensors(layer: Any) -> list[Tensor | None]:
    a, b = layer.lora_a, layer.lora_b
    return [*a, *b] if isinstance(a, list) else [a, b]


def _shapes(tensors: list[Tensor | None]) -> Shapes:
    return tuple([None if each is None else each.shape for each in tensors])
