"""A mix: the policies of one forward pass, stacked, and the part of each module that this process computes.

P = policies of the mix, X = tokens, R = the largest rank, I and O = widths in and out.
"""
# ruff: noqa: N806, N815  # tensors carry their shape in their name

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mint_common.adapters_format.sites import Site
from services.trainer.adapters.lora.tensors import Layout, LoraTensors, plan_layout, spread_index

_RANK_STEP = 8
"""`grouped_mm`, which experts use, wants rows of a multiple of 16 bytes, in bfloat16 too."""


@dataclass(slots=True, kw_only=True)
class Mix:
    """The policies of a forward pass: A and B of every site, stacked, and which tokens are whose."""

    counts: tuple[int, ...]
    scale_P: Tensor
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
        sites=dict(zip(names, zip(pieces[::2], pieces[1::2], strict=True), strict=True)),
    )


def _spread(policy: LoraTensors, layout: Layout) -> Tensor:
    index = spread_index(policy.layout, layout).to(policy.leaf.device)
    return policy.leaf.new_zeros(layout.size).index_copy(0, index, policy.leaf)


def _common_layout(layouts: Sequence[Layout]) -> Layout:
    """Return the smallest layout that all fit into and that products of this mix can work on."""
    rank = max(layout.rank for layout in layouts)
    first = layouts[0]
    if any(part.site.count for layout in layouts for part in layout.parts):
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
