"""Rows without an adapter in vLLM's LoRA operations for CPU."""

from collections.abc import Callable
from typing import Any


def ignore_rows_without_adapter() -> None:
    """Make the CPU LoRA operations add nothing to rows of index -1, which are the bare base's.

    As they are, they index with -1 and so give those rows the adapter in the last slot.
    """
    import vllm.lora.ops.torch_ops.lora_ops as ops
    import vllm.lora.punica_wrapper.punica_cpu as wrapper

    if ops.bgmv_shrink.__module__ == __name__:
        return  # repaired already
    repaired = {
        "bgmv_shrink": _shrink_ignoring(ops.bgmv_shrink),
        "bgmv_expand": _expand_ignoring(ops.bgmv_expand),
        "bgmv_expand_slice": _expand_ignoring(ops.bgmv_expand_slice),
    }
    # The sgmv_* operations look these names up in their own module when they are called.
    for module in (ops, wrapper):
        for name, operation in repaired.items():
            setattr(module, name, operation)


def _shrink_ignoring(operation: Callable[..., None]) -> Callable[..., None]:
    # Any: tensors; torch is not imported here just to name them.
    def shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        operation(inputs, weights, output, indices.clamp_min(0), scaling)
        output[indices < 0] = 0

    return shrink


def _expand_ignoring(operation: Callable[..., None]) -> Callable[..., None]:
    # The rows are put back as they were: a weight that has overflown makes NaN of a zero row too.
    def expand(inputs: Any, weights: Any, output: Any, indices: Any, *rest: Any, **options: Any) -> None:
        bare = indices < 0
        kept = output[: len(indices)][bare]
        operation(inputs, weights, output, indices.clamp_min(0), *rest, **options)
        output[: len(indices)][bare] = kept

    return expand
