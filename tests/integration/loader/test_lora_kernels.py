"""vLLM's Triton kernels of LoRA, which a GPU runs, over slots that MinT has filled; by Triton's interpreter.

Each token has the update of its own slot, `(x A') B'` with alpha in B, in float16: NumPy has no bfloat16.
"""

from typing import Any

import pytest

from tests.integration.loader.test_filled_slots import weights
from tests.integration.loader.test_rank_part import IN, SLOTS, Weights, _wrapper
from tests.testing.second_runner import is_second_runner

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not is_second_runner(), reason="by Triton's interpreter: make test-v2"),
    pytest.mark.filterwarnings("ignore"),  # of what vLLM imports
]

torch = pytest.importorskip("torch")

SLOT_OF_TOKENS = (1, -1, 0, 1, 0, 0, -1, 1, 1)
"""-1: the bare base."""


@pytest.mark.parametrize(
    "kind", ["ColumnParallel", "RowParallel", "MergedColumnParallel", "MergedQKVParallel"]
)
def test_each_token_has_the_update_of_its_slot(kind: str) -> None:
    from services.loader.adapters.vllm.rank_part import set_lora

    module = _wrapper(kind, workers=1, worker=0)
    for half in ("lora_a_stacked", "lora_b_stacked"):
        setattr(module, half, tuple(each.half() for each in getattr(module, half)))
    layers = [_narrow(weights(kind, rank, seed=rank)) for rank in (3, 8)]
    for replaced in (_narrow(weights(kind, 8, seed=9)), layers[0]):  # a slot that had another adapter before
        set_lora(module, 0, replaced)
    set_lora(module, 1, layers[1])
    x = torch.randn(len(SLOT_OF_TOKENS), IN, generator=torch.Generator().manual_seed(0)).half()
    found = _by_kernels(module, x)
    for at, slot in enumerate(SLOT_OF_TOKENS):
        expected = _update(layers[slot], x[at]) if slot >= 0 else torch.zeros(found.shape[1])
        assert torch.allclose(found[at].float(), expected.float(), rtol=2e-2, atol=5e-2), (at, slot)


def _narrow(layer: Weights) -> Weights:
    a, b = ([each.half() for each in half] for half in _halves(layer))
    return Weights(a, b) if isinstance(layer.lora_a, list) else Weights(a[0], b[0])


def _halves(layer: Weights) -> tuple[list[Any], list[Any]]:
    a, b = (half if isinstance(half, list) else [half] for half in (layer.lora_a, layer.lora_b))
    return a, b


def _update(layer: Weights, x: Any) -> Any:
    pairs = zip(*_halves(layer), strict=True)
    return torch.cat([up.float() @ (down.float() @ x.float()) for down, up in pairs])


def _by_kernels(module: Any, x: Any) -> Any:
    """Call the kernels as vLLM's wrapper for GPUs does (vllm/lora/punica_wrapper/punica_gpu.py)."""
    from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand, lora_shrink

    a, b = module.lora_a_stacked, module.lora_b_stacked
    meta = LoRAKernelMeta.make(SLOTS, len(x), device="cpu")
    meta.prepare_tensors(torch.tensor(SLOT_OF_TOKENS, dtype=torch.int32))
    arguments = meta.meta_args(len(x), specialize_active_lora=False)
    low = torch.zeros(len(a), len(x), a[0].shape[-2])
    lora_shrink(x, a, low, *arguments, 1.0)
    out = torch.zeros(len(x), sum(half.shape[-2] for half in b), dtype=x.dtype)
    lora_expand(low, b, out, *arguments, offset_start=0, add_inputs=True)
    return out
