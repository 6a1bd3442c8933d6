"""The base's experts with room for policies, in every layout that transformers stores them in.

(token, expert) pairs are sorted by expert, then policy: runs of one expert are the groups of the base's
product, runs of one expert and policy those of the update's.

P = policies of the mix, X = tokens, E = experts, K = experts of a token, S = X * K, R = the largest rank,
I, F and O = widths into the experts, of gate and up together, and out.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm

from mint_common.adapters_format.base_facts import ExpertsFacts
from services.trainer.adapters.lora.mixes import WHOLE, Mix

_TOLERANCE = 2e-2
"""Maximum error, as a share of an output's norm: bfloat16 rounds by less, another formula differs by more."""


class LoraExperts(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """Frozen experts in fused 3-D parameters; with a mix applied, each expert has each policy's update."""

    def __init__(self, base: nn.Module, name: str, layout: ExpertsFacts) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.layout = layout
        # Llama 4's alone have no flags: their input has each token once for every expert, weighted.
        self.is_dense = not hasattr(base, "is_transposed")
        self.mix: Mix | None = None
        self.share = WHOLE

    def forward(
        self, x_XI: Tensor, experts_XK: Tensor | None = None, weights_XK: Tensor | None = None
    ) -> Tensor:
        """Return the weighted sum of each token's experts; of dense ones what each makes of its input."""
        mix = self.mix
        if mix is None or not any(name.startswith(f"{self.name}.") for name in mix.sites):
            if self.share is WHOLE:
                chosen = () if experts_XK is None else (experts_XK, weights_XK)
                y: Tensor = self.base(x_XI, *chosen)
                return y
            mix = _bare_mix(x_XI)
        return self._mixed(mix, x_XI, experts_XK, weights_XK)

    def is_as_laid_out(self) -> bool:
        """Return whether the layout says all that the experts do, of a few tokens."""
        weight = self.base.down_proj
        count, _, outputs = weight.shape if self.layout.transposed else weight.transpose(1, 2).shape
        draw = torch.Generator().manual_seed(0)
        x_XI = torch.randn(2 * count, outputs, generator=draw).to(weight.device, weight.dtype)
        chosen: tuple[Tensor, ...] = ()
        mix = _bare_mix(x_XI[:2] if self.is_dense else x_XI)
        if not self.is_dense:
            experts_XK = torch.arange(2 * count, device=weight.device)[:, None] % count
            chosen = (experts_XK, torch.full_like(experts_XK, 0.5, dtype=weight.dtype))
        with torch.no_grad():
            expected, found = self.base(x_XI, *chosen), self._mixed(mix, x_XI, *chosen)
        off = (found - expected).norm() / expected.norm()
        return bool(off <= _TOLERANCE)

    def _mixed(
        self, mix: Mix, x_XI: Tensor, experts_XK: Tensor | None = None, weights_XK: Tensor | None = None
    ) -> Tensor:
        if experts_XK is None or weights_XK is None:
            return self._through(x_XI, self._dense_runs(mix))
        x_XI, weights_XK = self.share.enter(x_XI), self.share.enter(weights_XK)
        policies = len(mix.counts)
        policy_X = mix.policy_X if policies > 1 else torch.zeros_like(mix.policy_X)
        group_S = (experts_XK * policies + policy_X[:, None]).flatten()
        # Not `bincount`: CUDA's waits for the device, to find how long its result is.
        none_G = group_S.new_zeros(self.base.num_experts * policies)
        count_G = none_G.scatter_add(0, group_S, torch.ones_like(group_S))
        order_S = group_S.argsort(stable=True)
        experts = slice(0, self.base.num_experts)
        if self.share.experts is not None:
            # Sorted by expert, the pairs of a range of experts are neighbours.
            experts = slice(self.share.experts.start, self.share.experts.stop)
            before, upto = (int(count_G[: one * policies].sum()) for one in (experts.start, experts.stop))
            count_G = count_G[experts.start * policies : experts.stop * policies]
            order_S = order_S[before:upto]
        token_S = order_S // experts_XK.shape[1]
        run = _Runs(
            mix=mix,
            layout=self.layout,
            experts=experts,
            ends_EP=count_G.cumsum(0).to(torch.int32),
            scale_S=mix.scale_P[policy_X[token_S]][:, None],
        )
        y_SO = self._through(x_XI[token_S], run) * weights_XK.flatten()[order_S][:, None]
        return self.share.leave(torch.zeros_like(x_XI).index_add(0, token_S, y_SO.to(x_XI.dtype)))

    def _dense_runs(self, mix: Mix) -> "_Runs":
        count = self.base.num_experts
        return _Runs(
            mix=mix,
            layout=self.layout,
            experts=slice(0, count),
            ends_EP=torch.tensor(mix.counts * count).cumsum(0).to(mix.scale_P.device, torch.int32),
            scale_S=mix.scale_P[mix.policy_X].repeat(count)[:, None],
        )

    def _through(self, x_SI: Tensor, run: "_Runs") -> Tensor:
        """Return the output of each pair's expert."""
        projections = ("gate_proj", "up_proj") if self.layout.gated else ("up_proj",)
        fused_SF = run.base(x_SI, self.base, "gate_up_proj" if self.layout.gated else "up_proj")
        updates = [run.update(x_SI, f"{self.name}.{one}") for one in projections]
        if any(update is not None for update in updates):
            fused_SF = fused_SF + self._joined(updates)
        hidden_SO = self._activated(fused_SF)
        y_SO = run.base(hidden_SO, self.base, "down_proj")
        update_SO = run.update(hidden_SO, f"{self.name}.down_proj")
        return y_SO if update_SO is None else y_SO + update_SO

    def _joined(self, updates: list[Tensor | None]) -> Tensor:
        """Return updates as the fused output has them."""
        some = next(update for update in updates if update is not None)
        whole = [torch.zeros_like(some) if update is None else update for update in updates]
        joined_SF = torch.cat(whole, dim=-1)
        if not self.layout.interleaved:
            return joined_SF
        # By index: gradients of strided views would not go through `grouped_mm`.
        column_F = torch.arange(joined_SF.shape[-1], device=joined_SF.device).view(len(whole), -1)
        return joined_SF.index_select(-1, column_F.T.flatten())

    def _activated(self, fused_SF: Tensor) -> Tensor:
        """Return what goes into the last projection, by the base's own code."""
        if not self.layout.gated:
            activated: Tensor = self.base.act_fn(fused_SF)
        elif self.is_dense:
            gate_SO, up_SO = fused_SF.chunk(2, dim=-1)
            activated = up_SO * self.base.act_fn(gate_SO)
        else:
            activated = self.base._apply_gate(fused_SF)  # noqa: SLF001  # transformers' hook for families
        return activated


def updates_in_base_dtype(device: torch.device) -> bool:
    """Return whether updates are computed in the base's dtype, as vLLM does, and not in float32.

    CUDA has a grouped kernel for bfloat16 alone; in float32 it waits for the device and computes a product a
    group (torch 2.13, aten/src/ATen/native/cuda/GroupedBlas.cpp).
    """
    return bool(device.type == "cuda")


def _bare_mix(x_XI: Tensor) -> Mix:
    """Return a mix that updates nothing."""
    counts = (len(x_XI),)
    scale_P = torch.ones(1, device=x_XI.device)
    return Mix(counts=counts, scale_P=scale_P, sites={})


@dataclass(slots=True, kw_only=True)
class _Runs:
    """The runs of pairs of one pass through a layer's experts."""

    mix: Mix
    layout: ExpertsFacts
    experts: slice
    ends_EP: Tensor
    scale_S: Tensor

    def base(self, x_SI: Tensor, experts: nn.Module, name: str) -> Tensor:
        """Return the base experts' product with one of their parameters."""
        weight = getattr(experts, name)
        weight_EIO = weight if self.layout.transposed else weight.transpose(1, 2)
        # Contiguous: CUDA's bfloat16 kernel ignores the stride of offsets.
        ends_E = self.ends_EP[len(self.mix.counts) - 1 :: len(self.mix.counts)].contiguous()
        y_SO = grouped_mm(x_SI, weight_EIO, offs=ends_E)
        if not self.layout.biased:
            return y_SO
        sizes_E = ends_E.diff(prepend=ends_E.new_zeros(1))
        return y_SO + getattr(experts, f"{name}_bias").repeat_interleave(
            sizes_E, dim=0, output_size=len(x_SI)
        )

    def update(self, x_SI: Tensor, name: str) -> Tensor | None:
        """Return the update of a projection, None where no policy has one: rounded once, as dense ones."""
        if name not in self.mix.sites:
            return None
        # Experts first: [P, E, ...] -> [E * P, ...], the order of the runs.
        halves = self.mix.sites[name]
        a_GRI, b_GOR = (half[:, self.experts].transpose(0, 1).flatten(0, 1) for half in halves)
        if updates_in_base_dtype(x_SI.device):
            a_GRI, b_GOR = a_GRI.to(x_SI.dtype), b_GOR.to(x_SI.dtype)
        x_wide_SI = x_SI.to(a_GRI.dtype)
        low_SR = grouped_mm(x_wide_SI, a_GRI.transpose(1, 2), offs=self.ends_EP) * self.scale_S
        low_SR = low_SR.to(a_GRI.dtype)
        return grouped_mm(low_SR, b_GOR.transpose(1, 2), offs=self.ends_EP).to(x_SI.dtype)
