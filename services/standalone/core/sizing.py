"""The memory of a base in an engine and in a trainer."""

from collections.abc import Mapping
from dataclasses import dataclass

from mint_client.core.tables import shown_bytes
from mint_common.dtypes import ITEM_BYTES
from services.standalone.core.model_shape import ModelShape

RESIDENT_BYTES, HOST_BYTES = 16, 12
"""Bytes of a trained LoRA parameter: float32 weight, two moments and a gradient; without the gradient in
host memory.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes of a base in one dtype: its weights, and each item that an engine or a trainer adds."""

    weights: int
    kv_token: int
    slot: int
    resident_policy: int


def needs_of(shape: ModelShape, *, dtype: str, max_rank: int) -> Needs:
    """Return the needs of a base, with slots and policies at the largest rank on every site."""
    item, lora = ITEM_BYTES[dtype], shape.lora_parameters(max_rank)
    return Needs(
        weights=item * shape.parameters,
        kv_token=kv_token_bytes(shape, item=item),
        slot=item * lora,
        resident_policy=RESIDENT_BYTES * lora,
    )


def kv_token_bytes(shape: ModelShape, *, item: int, tensor: int = 1) -> int:
    """Return a token's bytes in all layers' KV cache on each of ``tensor`` workers.

    A worker has at least one head; ``kv_bytes`` are on each worker.
    """
    return item * shape.kv_values // min(tensor, shape.kv_heads) + shape.kv_bytes


def context_bytes(shape: ModelShape, *, item: int, tokens: int, tensor: int = 1) -> int:
    """Return the bytes that a sequence of so many tokens takes of the cache of each of ``tensor`` workers.

    Layers with a window keep no more of it; recurrent ones have a state of one size.
    """
    beyond = max(0, tokens - shape.window) if shape.window else 0
    saved = item * shape.window_values // min(tensor, shape.kv_heads) * beyond
    state = item * shape.state_values // tensor
    return kv_token_bytes(shape, item=item, tensor=tensor) * tokens - saved + state


def shown_count(count: float) -> str:
    """Return a number of parameters with a unit and three digits."""
    for unit in ("", " k", " M"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.4g} G"


def told_facts(
    shape: ModelShape, *, quantization: str, max_rank: int, dtype: str = "bfloat16"
) -> Mapping[str, str]:
    """Return the description of a base for its user, by topic, before any download or start."""
    stored = f"stored as {quantization}" if quantization else f"stored in {shape.dtype}"
    needs = needs_of(shape, dtype=dtype, max_rank=max_rank)
    weights = f"in {dtype} {shown_bytes(needs.weights)} of weights"
    other = "in float32 twice that" if dtype == "bfloat16" else "in bfloat16 half of that"
    return {
        "model": f"{shape.architecture}, {shape.layers} layers, hidden size {shape.hidden_size}, "
        f"{shown_count(shape.parameters)} parameters {stored}, context {shape.max_context}",
        "memory of an engine": f"{weights}, {shown_bytes(needs.kv_token)} a token of KV cache, "
        f"{shown_bytes(needs.slot)} an adapter slot of rank {max_rank}; {other}",
        "memory of a trainer": f"{weights}, {other}; {shown_bytes(needs.resident_policy)} a "
        f"resident policy of rank {max_rank}",
    }
