"""The whole of a forward pass as one module: log-probabilities of the target tokens.

B = lines of a micro-batch, L = its longest line, T = its target positions, D = model width, V = vocabulary.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from collections.abc import Callable
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from services.trainer.adapters.model.decoder import Decoder
from services.trainer.adapters.model.inputs import ModelInputs
from services.trainer.core.losses.tokens import token_hits, token_logprobs


class TargetScores(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A model's decoder and its head.

    Logits exist for target tokens only, and of many targets for a chunk at a time, which the backward pass
    computes again: all of them would not fit a large vocabulary. The model's own forward pass computes them
    from hidden states, so that it scales and caps them as its family does.
    """

    def __init__(self, model: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.body = decoder.body
        self.head = model.get_output_embeddings()
        rest = copy(model)
        rest.__dict__["_modules"] = {**dict(model.named_children()), decoder.child: _Given()}
        self._logits: Callable[..., Any] = rest.forward  # a method, so that the rest is no child
        self._use_head: Callable[[nn.Module], None] = rest.set_output_embeddings

    def forward(self, laid: ModelInputs, chunks: int = 1) -> tuple[Tensor, Tensor]:
        """Return logp_T of a micro-batch and its hit_T, which is empty unless requested."""
        hidden_BLD = self.body(
            input_ids=laid.inputs_BL,
            attention_mask=laid.mask,
            position_ids=laid.positions_BL,
            use_cache=False,
        ).last_hidden_state
        hidden_TD = hidden_BLD.flatten(0, 1)
        if laid.where_T is not None:
            hidden_TD = hidden_TD.index_select(0, laid.where_T)
        hidden_TD = hidden_TD.to(self.head.weight.dtype)
        temperature_T, score = laid.temperature_T, partial(self._scored, counts_hits=laid.counts_hits)
        if chunks == 1:
            return score(hidden_TD, laid.targets, temperature_T)
        # As many on each rank, some of them empty: a head's weights are gathered in step.
        parts = zip(
            hidden_TD.tensor_split(chunks),
            laid.targets.tensor_split(chunks),
            [None] * chunks if temperature_T is None else temperature_T.tensor_split(chunks),
            strict=True,
        )
        kept = {"use_reentrant": False, "preserve_rng_state": False}
        scored = [checkpoint(score, *part, **kept) for part in parts]
        return torch.cat([logprobs_T for logprobs_T, _ in scored]), torch.cat([hit_T for _, hit_T in scored])

    def _scored(
        self, hidden_TD: Tensor, targets: Tensor, temperature_T: Tensor | None, *, counts_hits: bool
    ) -> tuple[Tensor, Tensor]:
        logits_TV = self.logits(hidden_TD)
        hit_T = token_hits(logits_TV.detach(), targets) if counts_hits else logits_TV.new_zeros(0)
        return token_logprobs(logits_TV, targets, temperature_T), hit_T

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Return what the model makes of hidden states."""
        logits_TV: Tensor = self._logits(inputs_embeds=hidden_TD[None], use_cache=False).logits.squeeze(0)
        return logits_TV

    def widen_head(self) -> None:
        """Compute logits in float32 from now on, with a copy of a narrower head where no product is wider."""
        if self.head.weight.dtype != torch.float32:
            is_product = type(self.head) is nn.Linear and has_wide_product(self.head.weight.device)
            self.head = WideHead(self.head) if is_product else deepcopy(self.head).float()
            self._use_head(self.head)


def has_wide_product(device: torch.device) -> bool:
    """Return whether a product of narrow matrices has a float32 result: ``mm`` with ``out_dtype``."""
    return bool(device.type == "cuda")


def wide_product(x_TD: Tensor, weight_VD: Tensor) -> Tensor:
    """Return ``x W'`` in float32, summed in float32."""
    return torch.mm(x_TD, weight_VD.T, out_dtype=torch.float32)


class WideHead(nn.Module):  # type: ignore[misc]  # as above
    """A head whose weights stay narrow and whose logits are float32.

    A product of two bfloat16 numbers is exact in float32, so the logits are those of a float32 copy but for
    the order of the sum. The gradient of the hidden states is rounded, as these are.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = _WideProduct.apply(hidden, self.weight)
        return logits if self.bias is None else logits + self.bias


class _WideProduct(torch.autograd.Function):  # type: ignore[misc]  # as above
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VD: Tensor) -> Tensor:  # ctx: torch's own
        """Return the product."""
        ctx.save_for_backward(weight_VD)
        return wide_product(x.flatten(0, -2), weight_VD).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # as above
        """Return the gradient of the input; the weight is frozen."""
        (weight_VD,) = ctx.saved_tensors
        return gradient.to(weight_VD.dtype) @ weight_VD, None


class _Given(nn.Module):  # type: ignore[misc]  # as above
    """Stands in for a decoder whose hidden states are known already."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **_rest: Any) -> "_Hidden":  # what each family hands it
        """Return them."""
        return _Hidden(last_hidden_state=inputs_embeds)


class _Hidden(BaseModelOutputWithPast):  # type: ignore[misc]  # transformers is untyped for mypy here
    """Hidden states, and None for all that a decoder may answer besides."""

    def __getattr__(self, name: str) -> None:
        """Return None."""
