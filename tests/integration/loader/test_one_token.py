"""vLLM's convolution of a delta net on the CPU, and its repair for a prompt of one token."""

from collections.abc import Callable

import pytest

from services.loader.adapters.vllm_cpu.one_token import copy_single_tokens

pytestmark = [
    pytest.mark.engine,
    # torch's, when vLLM's modules are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

torch = pytest.importorskip("torch")


def _convolved(convolve: Callable[..., torch.Tensor], *, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a delta net's convolution of a part of a wider product, and what torch makes of it."""
    from vllm import _custom_ops as ops
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    width, taps, random = 64, 4, torch.Generator().manual_seed(0)
    part = torch.randn(tokens, 2 * width, generator=random).bfloat16()[:, :width]
    weight = torch.randn(width, taps, generator=random).bfloat16()
    found = convolve(
        x=part.contiguous().transpose(0, 1),
        weight=ops.causal_conv1d_weight_pack(weight),
        bias=None,
        conv_states=torch.zeros(2, taps - 1, width, dtype=torch.bfloat16).transpose(1, 2),
        query_start_loc=torch.tensor([0, tokens], dtype=torch.int32),
        cache_indices=torch.tensor([1], dtype=torch.int32),
        has_initial_state=torch.tensor([False]),
        silu_activation=True,
        is_weight_packed=True,
    )
    padded = torch.nn.functional.pad(part.float().t(), (taps - 1, 0))
    right = torch.nn.functional.conv1d(padded[None], weight.float()[:, None], groups=width)[0]
    return found.float(), torch.nn.functional.silu(right)


def test_one_token_still_ends_a_delta_net_as_shipped() -> None:
    """When this fails, the kernel is fixed and `copy_single_tokens` may go."""
    from vllm import _custom_ops as ops

    found, right = _convolved(ops.causal_conv1d_fwd_cpu, tokens=2)
    assert torch.allclose(found, right, atol=0.05)
    with pytest.raises(RuntimeError, match="expect x to be transposed"):
        _convolved(ops.causal_conv1d_fwd_cpu, tokens=1)


def test_repaired_one_token_is_convolved() -> None:
    import vllm.model_executor.layers.mamba.ops.cpu.gdn_attention as attention

    copy_single_tokens()
    copy_single_tokens()
    found, right = _convolved(attention._causal_conv1d_fwd_cpu, tokens=1)
    assert torch.allclose(found, right, atol=0.05)
