"""A prompt of one token through a gated delta net, on CPU."""

from typing import Any


def copy_single_tokens() -> None:
    """Give the convolution's kernel a copy of an input of one token, with strides of its own.

    The only row of a part of a wider product keeps its stride through ``contiguous()``, and the kernel ends
    the engine: "expect x to be transposed".
    """
    import vllm.model_executor.layers.mamba.ops.cpu.gdn_attention as attention

    shipped = attention._causal_conv1d_fwd_cpu  # noqa: SLF001
    if shipped.__module__ == __name__:
        return  # repaired already

    # Any: tensors; torch is not imported here just to name them.
    def convolve(*, x: Any, **rest: Any) -> Any:
        import torch

        if x.shape[1] == 1:
            x = x.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)
        return shipped(x=x, **rest)

    attention._causal_conv1d_fwd_cpu = convolve  # noqa: SLF001
