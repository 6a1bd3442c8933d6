"""The part of an adapter that one worker of several uses, cut out when the adapter is laid out.

vLLM stores the whole of every adapter in each worker's host memory; a wrapper's `set_lora` cuts the worker's
part out whenever the adapter gets a slot, in the engine's loop. Here the wrapper's own methods cut
once, outside the loop, and `set_lora` copies the result.

Invariants: a slot gets what vLLM alone would have put there. Wrappers of any other kind than those named here
store the whole and cut for themselves, and so do all on a vLLM that the plugin does not name (`CUT_PARTS`).

Undivided matrices stay whole in every worker: A of a column-parallel layer, which all
its outputs need, and B of a row-parallel one, which computes all outputs from a part of the inputs.
"""

from typing import Any

from vllm.lora.layers import (
    ColumnParallelLinearWithLoRA,
    FusedMoEWithLoRA,
    MergedColumnParallelLinearWithLoRA,
    MergedQKVParallelLinearWithLoRA,
    QKVParallelLinearWithLoRA,
    RowParallelLinearWithLoRA,
)

from services.loader.adapters.vllm.repairs.expert_slots import cleared_sparingly
from services.loader.adapters.vllm.repairs.filled_slots import fill, note
from services.loader.adapters.vllm_plugin import CUT_PARTS, is_tested

_MERGED = (MergedColumnParallelLinearWithLoRA, MergedQKVParallelLinearWithLoRA)
_SINGLE = (ColumnParallelLinearWithLoRA, QKVParallelLinearWithLoRA, RowParallelLinearWithLoRA)


def is_cut(module: Any) -> bool:  # Any, here and below: vllm has no types
    """Return whether a wrapper's adapters are cut when they are laid out."""
    known = type(module) in (*_MERGED, *_SINGLE, FusedMoEWithLoRA)
    return known and module.tp_size > 1 and is_tested(CUT_PARTS)


def cut(module: Any, layer: Any) -> None:
    """Leave of a layer's weights the worker's part: views."""
    if not is_cut(module):
        return
    a, b = layer.lora_a, layer.lora_b
    if type(module) is FusedMoEWithLoRA:
        # vLLM's order: gate, down, up.
        slices_a = module._slice_w13_a, module._slice_w2_a, module._slice_w13_a  # noqa: SLF001
        slices_b = module._slice_w13_b, module._slice_w2_b, module._slice_w13_b  # noqa: SLF001
        layer.lora_a = [slice_a(each) for slice_a, each in zip(slices_a, a, strict=True)]
        layer.lora_b = [slice_b(each) for slice_b, each in zip(slices_b, b, strict=True)]
        return
    if isinstance(module, _MERGED) and len(b) != module.n_slices:
        a, b = module.expand_packed_lora(a, b)
    layer.lora_a, layer.lora_b = module.slice_lora_a(a), module.slice_lora_b(b)


def set_lora(module: Any, index: int, layer: Any) -> None:
    """Copy a layer's weights, which `cut` has seen, into a slot."""
    if fill(module, index, layer):
        return
    workers = module.tp_size
    if is_cut(module):
        module.tp_size = 1  # what else a wrapper asks before it cuts; the engine's thread alone comes here
    try:
        with cleared_sparingly(module, index, layer):
            module.set_lora(index, layer.lora_a, layer.lora_b)
    finally:
        module.tp_size = workers
    if workers == 1 or is_cut(module):
        note(module, index, layer)


def size_bytes(layer: Any) -> int:
    """Return the bytes of a layer's weights, as they are copied into a slot."""
    halves = (layer.lora_a, layer.lora_b)
    tensors = [each for half in halves for each in (half if isinstance(half, list) else [half])]
    return sum(each.numel() * each.element_size() for each in tensors if each is not None)
