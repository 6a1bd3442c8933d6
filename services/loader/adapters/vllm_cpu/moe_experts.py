# ruff: noqa: N803, N806  (shape suffixes, see the legend below)
"""Routed experts with LoRA in plain torch, for vLLM on CPU, which has none.

vLLM's own wrapper provides its buffers, its loading and its context; only the experts' arithmetic is here.

Shapes: T = tokens, k = experts per token, P = T * k pairs of a token and an expert, in order of (expert,
slot), G = those with an adapter, D = model width, I = expert width, S = slots, E = experts, R = rank of the
buffers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.experts.lora_context import MoELoRAContext
from vllm.model_executor.layers.fused_moe.experts.lora_experts_mixin import LoRAExpertsMixin

from services.loader.adapters.vllm_cpu.grouped_lora import adds_up_alike, are_batched

_ROWS_PER_GROUP = 4
"""Below it, on Intel, gathering each pair's own A and B for one batched product beats a product per group: 4
times faster for a step of 16 tokens over 128 experts, 9 times slower for 512 tokens over 8."""


def _clamped(gate: Tensor, up: Tensor) -> Tensor:
    """Return gpt-oss's product (transformers' ``_apply_gate``, vLLM's `SwigluOAIAndMul`)."""
    gate, up = gate.clamp(max=7.0), up.clamp(min=-7.0, max=7.0)
    return (up + 1) * gate * torch.sigmoid(gate * 1.702)


_PRODUCTS: Mapping[MoEActivation, Callable[[Tensor, Tensor], Tensor]] = {
    MoEActivation.SILU: lambda gate, up: functional.silu(gate) * up,
    MoEActivation.GELU: lambda gate, up: functional.gelu(gate) * up,
    MoEActivation.GELU_TANH: lambda gate, up: functional.gelu(gate, approximate="tanh") * up,
    MoEActivation.SWIGLUOAI: _clamped,
}
"""Function of gate and up for each activation; only SWIGLUOAI's weights interleave them row by row."""


class TorchLoraExperts(LoRAExpertsMixin, CPUUnquantizedExperts):  # type: ignore[misc]  # vllm has no types
    """Unquantized gated experts; each token brings the slot of its own adapter, or none."""

    @staticmethod
    def computes(moe_config: Any) -> bool:
        """Return whether experts of a kind are computed here."""
        return moe_config.activation in _PRODUCTS and moe_config.swiglu_limit is None

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation in _PRODUCTS

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave w13 ``[E, 2I, D]`` and w2 ``[E, D, I]`` unchanged: nothing is packed for a kernel."""

    def apply(  # noqa: PLR0917  # vLLM's signature
        self,
        output: Tensor,
        hidden_states: Tensor,
        w1: Tensor,
        w2: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        activation: MoEActivation,
        global_num_experts: int,  # noqa: ARG002
        expert_map: Tensor | None,
        a1q_scale: Tensor | None,  # noqa: ARG002
        a2_scale: Tensor | None,  # noqa: ARG002
        workspace13: Tensor,  # noqa: ARG002
        workspace2: Tensor,  # noqa: ARG002
        expert_tokens_meta: object,  # noqa: ARG002
        apply_router_weight_on_input: bool,  # noqa: FBT001
    ) -> None:
        """Add up the experts' outputs of each token into ``output`` ``[T, D]``."""
        context: MoELoRAContext | None = self._lora_context
        experts_TK = topk_ids.long() if expert_map is None else expert_map[topk_ids.long()].long()
        slots_T = _slots(context, topk_ids.shape[0])
        pairs = _Pairs(experts_TK, slots_T, experts=w1.shape[0])
        x_PD = hidden_states[pairs.token_P]
        h_P2I = pairs.per_expert(x_PD, w1, self.w1_bias)
        if activation == MoEActivation.SWIGLUOAI:
            gate_PI, up_PI = h_P2I[:, ::2], h_P2I[:, 1::2]
        else:
            gate_PI, up_PI = h_P2I.chunk(2, dim=1)
        if context is not None:
            factors = zip(context.w13_lora_a_stacked, context.w13_lora_b_stacked, strict=True)
            for part_PI, (a, b) in zip((gate_PI, up_PI), factors, strict=True):
                pairs.add_lora(part_PI, x_PD, a, b)
        act_PI = _PRODUCTS[activation](gate_PI, up_PI)
        y_PD = pairs.per_expert(act_PI, w2, self.w2_bias)
        if context is not None:
            pairs.add_lora(y_PD, act_PI, context.w2_lora_a_stacked[0], context.w2_lora_b_stacked[0])
        if not apply_router_weight_on_input:  # else the inputs carry it already
            y_PD = y_PD.float() * topk_weights.reshape(-1, 1)[pairs.order_P].float()
        total_TD = torch.zeros(output.shape, dtype=torch.float32)
        output.copy_(total_TD.index_add_(0, pairs.token_P, y_PD.float()))


def _slots(context: MoELoRAContext | None, tokens: int) -> Tensor:
    """Return each token's slot, -1 for those without an adapter and for padding."""
    slots = torch.full((tokens,), -1, dtype=torch.long)
    if context is not None:
        known = context.local_token_lora_mapping
        if known is None:
            known = context.punica_wrapper.token_lora_indices
        count = min(tokens, known.shape[0])
        slots[:count] = known[:count]
    return slots


def _is_batched(factor: Tensor, *, rows: int, groups: int) -> bool:
    if adds_up_alike():
        return rows < _ROWS_PER_GROUP * groups
    return are_batched(factor, rows=rows, groups=groups)


class _Pairs:
    """The pairs of a step that this rank computes, sorted by expert."""

    def __init__(self, experts_TK: Tensor, slots_T: Tensor, *, experts: int) -> None:
        flat = experts_TK.reshape(-1)
        slots = slots_T.repeat_interleave(experts_TK.shape[1])
        lanes = int(slots_T.max()) + 2 if len(slots_T) else 1
        key = torch.where(flat < 0, experts, flat) * lanes + slots + 1  # another rank's experts go last
        mine = int((flat >= 0).sum())
        self.order_P = key.argsort(stable=True)[:mine]
        self.token_P = self.order_P // experts_TK.shape[1]
        self._expert_P = flat[self.order_P]
        self._slot_P = slots[self.order_P]
        self._rows_E = torch.bincount(self._expert_P, minlength=experts).tolist()
        self._adapted = (self._slot_P >= 0).nonzero().squeeze(1)
        keys, counts = torch.unique_consecutive(key[self.order_P], return_counts=True)
        self._groups = [
            (key // lanes, key % lanes - 1, rows)
            for key, (_, rows) in zip(keys.tolist(), _spans(counts.tolist()), strict=True)
            if key % lanes
        ]

    def per_expert(self, x_PI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None) -> Tensor:
        """Return each pair's input times its expert's weight."""
        result_PO = x_PI.new_empty(x_PI.shape[0], weight_EOI.shape[1])
        for expert, rows in _spans(self._rows_E):
            torch.mm(x_PI[rows], weight_EOI[expert].t(), out=result_PO[rows])
            if bias_EO is not None:
                result_PO[rows] += bias_EO[expert]
        return result_PO

    def add_lora(self, y_PO: Tensor, x_PI: Tensor, a_SERI: Tensor, b_SEOR: Tensor) -> None:
        """Add each pair's own B @ A of its input, for pairs that have an adapter."""
        index = self._adapted
        # One expert in a buffer stands for all of them: a factor that experts share.
        has_own_a, has_own_b = a_SERI.shape[1] > 1, b_SEOR.shape[1] > 1
        if _is_batched(a_SERI, rows=len(index), groups=len(self._groups)):
            slot, expert = self._slot_P[index], self._expert_P[index]
            x_GI1 = x_PI[index].to(a_SERI.dtype).unsqueeze(-1)
            low_GR1 = torch.bmm(a_SERI[slot, expert * has_own_a], x_GI1)
            delta_GO = torch.bmm(b_SEOR[slot, expert * has_own_b], low_GR1).squeeze(-1)
            y_PO.index_add_(0, index, delta_GO.to(y_PO.dtype))
            return
        for expert, slot, rows in self._groups:
            a_RI, b_OR = a_SERI[slot, expert * has_own_a], b_SEOR[slot, expert * has_own_b]
            y_PO[rows] += x_PI[rows].to(a_RI.dtype) @ a_RI.t() @ b_OR.t()


def _spans(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield (index, the rows it has) for every count that is not zero."""
    begin = 0
    for index, count in enumerate(counts):
        if count:
            yield index, slice(begin, begin + count)
        begin += count
