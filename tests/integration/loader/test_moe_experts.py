"""The experts' arithmetic against the plain formula, for few and for many rows of a group."""

from types import SimpleNamespace

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")

D, WIDTH, R, SLOTS = 32, 16, 4, 3


@pytest.mark.parametrize(("tokens", "experts", "k"), [(1, 8, 2), (5, 8, 8), (64, 4, 2), (16, 32, 4)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("adapters", ["none", "some", "all"])
def test_every_token_gets_its_experts_and_its_adapter(
    tokens: int, experts: int, k: int, shared: bool, adapters: str
) -> None:
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

    from services.loader.adapters.moe_experts import TorchLoraExperts

    torch.manual_seed(tokens)
    w13, w2 = torch.randn(experts, 2 * WIDTH, D) / 6, torch.randn(experts, D, WIDTH) / 4
    count = 1 if shared else experts
    a13 = tuple(torch.randn(SLOTS, count, R, D) / 6 for _ in range(2))
    b13 = tuple(torch.randn(SLOTS, experts, WIDTH, R) for _ in range(2))
    a2, b2 = torch.randn(SLOTS, experts, R, WIDTH) / 4, torch.randn(SLOTS, count, D, R)
    x = torch.randn(tokens, D)
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
    output = torch.empty(tokens, D)
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
    expected = torch.zeros(tokens, D)
    for t in range(tokens):
        for j in range(k):
            e, s = int(ids[t, j]), int(slots[t])
            halves = [w13[e, :WIDTH] @ x[t], w13[e, WIDTH:] @ x[t]]
            if s >= 0:
                one = 0 if shared else e
                halves = [h + b[s, e] @ (a[s, one] @ x[t]) for h, a, b in zip(halves, a13, b13, strict=True)]
            act = torch.nn.functional.silu(halves[0]) * halves[1]
            y = w2[e] @ act
            if s >= 0:
                y = y + b2[s, 0 if shared else e] @ (a2[s, e] @ act)
            expected[t] += weights[t, j] * y
    assert torch.allclose(output, expected, rtol=1e-4, atol=1e-5)
