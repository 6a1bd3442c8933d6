"""The base's modules with room for policies: a mix of policies goes through one forward pass.

y = W x + (alpha / r) B A x, Hu et al. 2021 (arXiv 2106.09685); numbers equal to PEFT's (tests/unit/trainer).
The tokens of a pass are in the order of their policies. One policy is two more matrix products; several are
batched ones when each has equally many tokens, grouped ones otherwise. Every product stays within its own
tokens, so nothing of one policy reaches another's output or gradient.

P = policies of the mix, X = tokens, N = tokens of each policy, R = the largest rank, E = experts, K = experts
of a token, S = X * K, I and O = widths in and out.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.sites import Site
from services.trainer.adapters.lora.tensors import Layout, LoraTensors, plan_layout, spread_index

_RANK_STEP = 4
"""`grouped_mm` wants rows of a multiple of 16 bytes."""


@dataclass(slots=True, kw_only=True)
class Mix:
    """The policies of a forward pass: A and B of every site, stacked, and which tokens are whose."""

    counts: tuple[int, ...]
    scale_P: Tensor
    ends_P: Tensor
    sites: Mapping[str, tuple[Tensor, Tensor]]
    policy_X: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Number the policy of each token."""
        policy_X = torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts))
        self.policy_X = policy_X.to(self.scale_P.device)

    @property
    def uniform(self) -> bool:
        """Return whether all policies have equally many tokens."""
        return len(set(self.counts)) == 1


def plan_mix(policies: Sequence[tuple[LoraTensors, int]]) -> Mix:
    """Return the mix of some policies, each with the number of its tokens.

    Smaller ranks are padded with zeros, missing targets are zero altogether: both add exactly nothing.
    """
    tensors = [policy for policy, _ in policies]
    layout = _common_layout([policy.layout for policy in tensors])
    leaves = [policy.leaf if policy.layout is layout else _spread(policy, layout) for policy in tensors]
    device = leaves[0].device
    pieces = layout.cut(torch.stack(leaves) if len(leaves) > 1 else leaves[0][None])
    names = [part.site.name for part in layout.parts[::2]]
    counts = tuple(count for _, count in policies)
    return Mix(
        counts=counts,
        scale_P=torch.tensor([policy.scale for policy in tensors], device=device),
        ends_P=torch.tensor(counts).cumsum(0).to(device, torch.int32),
        sites=dict(zip(names, zip(pieces[::2], pieces[1::2], strict=True), strict=True)),
    )


def _spread(policy: LoraTensors, layout: Layout) -> Tensor:
    index = spread_index(policy.layout, layout).to(policy.leaf.device)
    return policy.leaf.new_zeros(layout.size).index_copy(0, index, policy.leaf)


def _common_layout(layouts: Sequence[Layout]) -> Layout:
    """Return the smallest layout that all fit into and that products of this mix can work on."""
    rank = max(layout.rank for layout in layouts)
    first = layouts[0]
    if len(layouts) > 1 or any(part.site.count for part in first.parts):
        rank = -(-rank // _RANK_STEP) * _RANK_STEP
    if all(layout is first for layout in layouts) and rank == first.rank:
        return first
    sites: dict[str, Site] = {part.site.name: part.site for one in set(layouts) for part in one.parts}
    return plan_layout(sites.values(), rank)


def _as_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of a module that this process computes: slices of its widths, or some of its experts.

    The base weights are cut alike. ``enter`` and ``leave`` are at the input and the output, where the
    parts of all processes are combined.
    """

    inputs: slice = field(default_factory=lambda: slice(None))
    outputs: slice = field(default_factory=lambda: slice(None))
    experts: range | None = None
    enter: Callable[[Tensor], Tensor] = _as_is
    leave: Callable[[Tensor], Tensor] = _as_is


WHOLE = Share()


class LoraLinear(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A frozen linear; with a mix applied it adds each policy's low-rank update to that policy's tokens."""

    def __init__(self, base: nn.Linear, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.mix: Mix | None = None
        self.share = WHOLE

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the base linear, plus the update if there is one."""
        x = self.share.enter(x)
        y: Tensor = self.base(x)
        if self.mix is not None and self.name in self.mix.sites:
            y_XO, x_XI = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
            a_PRI, b_POR = self.mix.sites[self.name]
            if self.share is not WHOLE:  # even a slice of everything has a backward that fills and copies
                a_PRI, b_POR = a_PRI[..., self.share.inputs], b_POR[:, self.share.outputs]
            y = _updated(y_XO, x_XI, self.mix, a_PRI, b_POR).view(y.shape)
        return self.share.leave(y)


def _updated(y_XO: Tensor, x_XI: Tensor, mix: Mix, a_PRI: Tensor, b_POR: Tensor) -> Tensor:
    """Return y plus the policies' updates, computed in the dtype of A and B and rounded once."""
    if y_XO.dtype != a_PRI.dtype:
        y_wide_XO, x_wide_XI = y_XO.to(a_PRI.dtype), x_XI.to(a_PRI.dtype)
        return _updated(y_wide_XO, x_wide_XI, mix, a_PRI, b_POR).to(y_XO.dtype)
    policies = len(mix.counts)
    a_PIR, b_PRO = a_PRI.transpose(1, 2), b_POR.transpose(1, 2)
    if policies == 1:
        return torch.addmm(y_XO, torch.mm(x_XI, a_PIR[0]) * mix.scale_P, b_PRO[0])
    if mix.uniform:
        y_PNO, x_PNI = (one_XW.view(policies, -1, one_XW.shape[-1]) for one_XW in (y_XO, x_XI))
        low_PNR = torch.bmm(x_PNI, a_PIR) * mix.scale_P[:, None, None]
        return torch.baddbmm(y_PNO, low_PNR, b_PRO)
    low_XR = grouped_mm(x_XI, a_PIR, offs=mix.ends_P) * mix.scale_P[mix.policy_X][:, None]
    return y_XO + grouped_mm(low_XR, b_PRO, offs=mix.ends_P)


class LoraExperts(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """Frozen experts in fused 3-D parameters; with a mix applied, each expert has each policy's update.

    (token, expert) pairs are sorted by expert, then policy: runs of one expert are the groups of the base's
    product, runs of one expert and policy those of the update's.
    """

    def __init__(self, base: nn.Module, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.mix: Mix | None = None
        self.share = WHOLE

    def forward(self, x_XI: Tensor, experts_XK: Tensor, weights_XK: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts."""
        mix = self.mix
        if mix is None or not any(name.startswith(f"{self.name}.") for name in mix.sites):
            if self.share is WHOLE:
                y: Tensor = self.base(x_XI, experts_XK, weights_XK)
                return y
            mix = _bare_mix(x_XI)
        x_XI, weights_XK = self.share.enter(x_XI), self.share.enter(weights_XK)
        policies = len(mix.counts)
        policy_X = mix.policy_X if policies > 1 else torch.zeros_like(mix.policy_X)
        group_S = (experts_XK * policies + policy_X[:, None]).flatten()
        count_G = torch.bincount(group_S, minlength=self.base.num_experts * policies)
        order_S = group_S.argsort(stable=True)
        experts = slice(None)
        if self.share.experts is not None:
            # Sorted by expert, the pairs of a range of experts are neighbours.
            experts = slice(self.share.experts.start, self.share.experts.stop)
            before, upto = (int(count_G[: one * policies].sum()) for one in (experts.start, experts.stop))
            count_G = count_G[experts.start * policies : experts.stop * policies]
            order_S = order_S[before:upto]
        token_S = order_S // experts_XK.shape[1]
        run = _Runs(
            mix=mix,
            experts=experts,
            ends_EP=count_G.cumsum(0).to(torch.int32),
            scale_S=mix.scale_P[policy_X[token_S]][:, None],
        )
        x_SI = x_XI[token_S]
        gate_SO, up_SO = run.base(x_SI, self.base.gate_up_proj).chunk(2, dim=-1)
        gate_SO = gate_SO + run.update(x_SI, f"{self.name}.gate_proj")
        up_SO = up_SO + run.update(x_SI, f"{self.name}.up_proj")
        hidden_SO = self.base.act_fn(gate_SO) * up_SO
        y_SO = run.base(hidden_SO, self.base.down_proj) + run.update(hidden_SO, f"{self.name}.down_proj")
        y_SO = y_SO * weights_XK.flatten()[order_S][:, None]
        return self.share.leave(torch.zeros_like(x_XI).index_add(0, token_S, y_SO.to(x_XI.dtype)))


def _bare_mix(x_XI: Tensor) -> Mix:
    """Return a mix that updates nothing."""
    counts = (len(x_XI),)
    scale_P = torch.ones(1, device=x_XI.device)
    return Mix(counts=counts, scale_P=scale_P, ends_P=torch.tensor(counts, device=x_XI.device), sites={})


@dataclass(slots=True, kw_only=True)
class _Runs:
    """The runs of pairs of one pass through a layer's experts."""

    mix: Mix
    experts: slice
    ends_EP: Tensor
    scale_S: Tensor

    def base(self, x_SI: Tensor, weight_EOI: Tensor) -> Tensor:
        """Return the base experts' product."""
        policies = len(self.mix.counts)
        return grouped_mm(x_SI, weight_EOI.transpose(1, 2), offs=self.ends_EP[policies - 1 :: policies])

    def update(self, x_SI: Tensor, name: str) -> Tensor | float:
        """Return the update of a projection, 0 where no policy has one: as `_updated` rounds."""
        if name not in self.mix.sites:
            return 0.0
        # Experts first: [P, E, ...] -> [E * P, ...], the order of the runs.
        halves = self.mix.sites[name]
        a_GRI, b_GOR = (half[:, self.experts].transpose(0, 1).flatten(0, 1) for half in halves)
        x_wide_SI = x_SI.to(a_GRI.dtype)
        low_SR = grouped_mm(x_wide_SI, a_GRI.transpose(1, 2), offs=self.ends_EP) * self.scale_S
        return grouped_mm(low_SR, b_GOR.transpose(1, 2), offs=self.ends_EP).to(x_SI.dtype)


Slot = LoraLinear | LoraExperts


def wrap_modules(model: nn.Module, facts: BaseFacts) -> list[Slot]:
    """Replace every module that may carry LoRA; without a mix the model computes as before."""
    slots: list[Slot] = []
    for names, kind in ((facts.modules, LoraLinear), (facts.experts, LoraExperts)):
        for name in names:
            parent_name, _, leaf = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            slots.append(kind(getattr(parent, leaf), name))
            setattr(parent, leaf, slots[-1])
    return slots


@contextmanager
def applied(slots: Sequence[Slot], mix: Mix | None) -> Iterator[None]:
    """Apply a mix to forward passes within the block, None: no policy."""
    for slot in slots:
        slot.mix = mix
    try:
        yield
    finally:
        for slot in slots:
            slot.mix = None
