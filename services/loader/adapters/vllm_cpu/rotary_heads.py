"""Rotary embedding of queries with separate heads, on CPU.

vllm-project/vllm#12777 corrected CUDA's kernel for queries of this shape, but not the CPU's.
"""

from typing import Any


def rotate_every_token() -> None:
    """Rotate queries ``[tokens, heads, width]`` by vLLM's Python code instead of its CPU kernel.

    The kernel takes the last but one stride for a token's, which with three dimensions is a head's: tokens of
    a model with latent attention are turned by positions of others. What ``[tokens, heads * width]`` gives,
    as all other models pass it, is right.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    shipped = RotaryEmbedding.forward_cpu
    if shipped.__module__ == __name__:
        return  # repaired already

    # Any: tensors; torch is not imported here just to name them.
    def forward_cpu(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
        if query.dim() > positions.dim() + 1:
            return self.forward_native(positions, query, key)
        return shipped(self, positions, query, key)

    RotaryEmbedding.forward_cpu = forward_cpu
