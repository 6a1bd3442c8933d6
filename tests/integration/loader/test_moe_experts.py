"""The experts' arithmetic against the plain formula, for few and for many rows of a group."""

from types import SimpleNamespace

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")

SLOTS = 3
NARROW, WIDE = (32, 16, 4), (384, 192, 32)  # model width, expert width, rank


@pytest.mark.parametrize("step", [(1, 8, 2), (5, 8, 8), (64, 4, 2), (16, 32, 4)])
@pytest.mark.parametrize("sizes", [NARROW, WIDE])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("adapters", ["none", "some", "all"])
def test_every_token_gets_its_experts_and_its_adapter(
    step: tuple[int, int, int], sizes: tuple[int, int, int], shared: bool, adapters: str
) -> None:
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

    from services.loader.adapters.vllm_cpu.moe_experts import TorchLoraExperts

    tokens, experts, k = step
    torch.manual_seed(tokens)
    width_in, width, rank = sizes
    w13, w2 = (
        torch.randn(experts, 2 * width, width_in) / width_in**0.5,
        torch.randn(experts, width_in, width) / width**0.5,
    )
    count = 1 if shared else experts
    a13 = tuple(torch.randn(SLOTS, count, rank, width_in) / width_in**0.5 for _ in range(2))
    b13 = tuple(torch.randn(SLOTS, experts, width, rank) / rank**0.5 for _ in range(2))
    a2, b2 = (
        torch.randn(SLOTS, experts, rank, width) / width**0.5,
        torch.randn(SLOTS, count, width_in, rank) / rank**0.5,
    )
    x = torch.randn(tokens, width_in)
    ids = torch.stack([torch.randperm(experts)[:k] for _ in range(tokens)])
    weights = torch.rand(tokens, k)
    slots = {
        "none": torch.full((tokens,), -1),
        "some": torch.randint(-1, SLOTS, (tokens,)),
        "all": torch.randint(0, SLOTS, (tokens,)),
    }[adapters]
    kernel = object.__new__(TorchLoraExperts)
    kernel.quant_config = SimpleNamespace(w1_bias=None, w2_bias=None)
    kernel._lora_context = SimpleNamespace(
        w13_lora_a_stacked=a13,
        w13_lora_b_stacked=b13,
        w2_lora_a_stacked=(a2,),
        w2_lora_b_stacked=(b2,),
        local_token_lora_mapping=slots,
    )
    output = torch.empty(tokens, width_in)
    kernel.apply(
        output,
        x,
        w13,
        w2,
        weights,
        ids,
        MoEActivation.SILU,
        experts,
        None,
        None,
        None,
        torch.empty(0),
        torch.empty(0),
        None,
        False,
    )
    expected = torch.zeros(tokens, width_in)
    for t in range(tokens):
        for j in range(k):
            e, s = int(ids[t, j]), int(slots[t])
            halves = [w13[e, :width] @ x[t], w13[e, width:] @ x[t]]
            if s >= 0:
                one = 0 if shared else e
                halves = [h + b[s, e] @ (a[s, one] @ x[t]) for h, a, b in zip(halves, a13, b13, strict=True)]
            act = torch.nn.functional.silu(halves[0]) * halves[1]
            y = w2[e] @ act
            if s >= 0:
                y = y + b2[s, 0 if shared else e] @ (a2[s, e] @ act)
            expected[t] += weights[t, j] * y
    assert torch.allclose(output, expected, rtol=1e-4, atol=1e-5)
