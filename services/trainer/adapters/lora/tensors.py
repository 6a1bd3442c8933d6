"""A policy's LoRA tensors: one float32 leaf that an optimizer steps in place, and its parts by name.

Invariant: two policies of one shape (rank, targets) have the same layout, so their leaves stack; the parts of
a leaf are views of it. A part is one half of a `Site`: A ``[r, in]`` and B ``[out, r]`` of a dense module,
``[E, r, in]`` and ``[E, out, r]`` of an experts' projection.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mint_common.adapters_format import packed_name, peft_name
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import HALVES, Half
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.events import LoraSpec
from services.trainer.core.layout_check import check_fits


@dataclass(frozen=True, slots=True)
class LoraPart:
    """Offset of one half of a site in the leaf, and its shape there."""

    site: Site
    half: Half
    shape: tuple[int, ...]
    begin: int

    @property
    def size(self) -> int:
        """Return the number of its elements."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """Return the name of the tensor in an adapter file."""
        if self.site.count:
            return packed_name(self.site.module, self.site.projection, self.half)
        return peft_name(self.site.name, self.half)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The parts of a leaf, in its order. Equal ones are one object: see `plan_layout`."""

    rank: int
    parts: tuple[LoraPart, ...]

    @property
    def size(self) -> int:
        """Return the number of elements of a leaf."""
        last = self.parts[-1]
        return last.begin + last.size

    def cut(self, leaf: Tensor) -> list[Tensor]:
        """Return the parts of a leaf ``[N]``, or of a stack of leaves ``[P, N]``, each in its own shape."""
        pieces = leaf.split([part.size for part in self.parts], dim=-1)
        return [
            piece.view(*leaf.shape[:-1], *part.shape) for part, piece in zip(self.parts, pieces, strict=True)
        ]


def plan_layout(sites: Iterable[Site], rank: int) -> Layout:
    """Return the layout of some sites at a rank, the same object for the same sites."""
    return _plan_layout(tuple(sorted(sites, key=lambda site: site.name)), rank)


@lru_cache(maxsize=64)
def _plan_layout(sites: tuple[Site, ...], rank: int) -> Layout:
    parts: list[LoraPart] = []
    begin = 0
    for site in sites:
        experts = (site.count,) if site.count else ()
        for half in HALVES:
            matrix = (rank, site.width_in) if half == "A" else (site.width_out, rank)
            parts.append(LoraPart(site, half, (*experts, *matrix), begin))
            begin += parts[-1].size
    return Layout(rank, tuple(parts))


@lru_cache(maxsize=64)
def spread_index(small: Layout, large: Layout) -> Tensor:
    """Return where each element of a leaf belongs in one of a larger layout, which has all of its sites."""
    whole = dict(zip(_halves(large), large.cut(torch.arange(large.size)), strict=True))
    kept = []
    for half, part in zip(_halves(small), small.parts, strict=True):
        ranks = slice(0, small.rank)
        view = whole[half][..., ranks, :] if part.half == "A" else whole[half][..., ranks]
        kept.append(view.reshape(-1))
    return torch.cat(kept)


def _halves(layout: Layout) -> list[tuple[str, Half]]:
    return [(part.site.name, part.half) for part in layout.parts]


@dataclass(slots=True, kw_only=True)
class LoraTensors:
    """One policy's leaf. ``scale`` is alpha / r."""

    layout: Layout
    scale: float
    leaf: Tensor

    @property
    def rank(self) -> int:
        """Return the rank."""
        return self.layout.rank

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name in an adapter file of each part, with a view of its values."""
        for part, view in zip(self.layout.parts, self.layout.cut(self.leaf.detach()), strict=True):
            yield part.name, view


def new_lora(facts: BaseFacts, spec: LoraSpec) -> LoraTensors:
    """Return fresh tensors: A kaiming-uniform (a = sqrt 5) from the spec's seed, B zero, as PEFT does.

    Raises LoraInvalid when the spec does not fit the base.
    """
    check_fits(spec, facts)
    layout = plan_layout(targeted(all_sites(facts), spec.targets), spec.rank)
    leaf = torch.zeros(layout.size)
    generator = torch.Generator().manual_seed(spec.seed)
    for part, view in zip(layout.parts, layout.cut(leaf), strict=True):
        if part.half == "A":
            # One by one: experts in a stack would be taken for a convolution's fan-in.
            for a_RI in view.view(-1, *part.shape[-2:]):
                nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
    return LoraTensors(layout=layout, scale=spec.alpha / spec.rank, leaf=leaf.requires_grad_())


def folded_arrays(tensors: LoraTensors) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of an export: alpha / r is in B, so that readers do not scale again."""
    return {
        name: (view * (tensors.scale if ".lora_B." in name else 1.0)).cpu().numpy()
        for name, view in tensors.named()
    }
