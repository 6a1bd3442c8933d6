"""Convert packed tensors to another layout and back, losslessly, in memory.

A fused file has one A for gate and up. If an adapter has one each, both are stacked at twice the rank, every
B reads its own half, and other projections are padded with zeros: the update is the same.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mint_common.adapters_format.experts import HalfOf, read_half, sources_of, write_half
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.names import DENSE, FUSED, HALVES, Half, packed_name, peft_name
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.adapters_format.sites import Site
from mint_common.errors import AdapterInvalid

_GATE, _UP = "gate_proj", "up_proj"
_ROWS, _COLUMNS = -2, -1
Arrays = Mapping[str, np.ndarray]


def relaid(
    layout: str, sites: Sequence[Site], *, rank: int, tensors: Arrays
) -> tuple[int, dict[str, np.ndarray]]:
    """Return packed tensors in a layout, with their rank there: twice theirs if that is what fusing takes.

    Raises AdapterInvalid when a tensor is missing, or the layout cannot express these sites.
    """

    def packed(site: Site, half: Half) -> np.ndarray:
        try:
            return tensors[_packed(site, half)]
        except KeyError as error:
            raise refusal(Reason.MISSING_TENSOR, f"{error}") from error

    half_of: HalfOf = packed
    if layout == FUSED and not _shares_a(sites, packed):
        rank, half_of = 2 * rank, _doubled(sites, packed)
    return rank, {spec.name: write_half(spec, half_of) for spec in tensor_specs(layout, sites, rank=rank)}


def packed_again(sites: Sequence[Site], *, rank: int, tensors: Arrays) -> Arrays:
    """Return tensors of any layout as packed ones of a rank. What fits no layout is returned as it is."""
    found = {name: array.shape for name, array in tensors.items() if not name.startswith("pad.")}
    if not any(site.count for site in sites):
        return tensors
    for layout, times in ((DENSE, 1), (FUSED, 1), (FUSED, 2)):
        try:
            specs = tensor_specs(layout, sites, rank=times * rank)
        except AdapterInvalid:  # fusing takes all three projections, or down alone
            continue
        if {spec.name: spec.shape for spec in specs} == found:
            return _read_packed(sites, specs, tensors, is_doubled=times > 1)
    return tensors


def _read_packed(
    sites: Sequence[Site], specs: Sequence[TensorSpec], tensors: Arrays, *, is_doubled: bool
) -> dict[str, np.ndarray]:
    sources = sources_of(specs)
    arrays: dict[str, np.ndarray] = {}
    for site in sites:
        for half in HALVES:
            array = read_half(site, half, sources, lambda spec: tensors[spec.name])
            arrays[_packed(site, half)] = _own_half(site, half, array) if is_doubled else array
    return arrays


def _packed(site: Site, half: Half) -> str:
    return packed_name(site.module, site.projection, half) if site.count else peft_name(site.name, half)


def _pairs(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Return gate and up of each layer's experts, by the layer's module."""
    pairs: dict[str, list[Site]] = {}
    for site in sites:
        if site.count and site.projection in {_GATE, _UP}:
            pairs.setdefault(site.module, []).append(site)
    return {module: sorted(pair, key=lambda site: site.projection) for module, pair in pairs.items()}


def _shares_a(sites: Sequence[Site], half_of: HalfOf) -> bool:
    return all(
        np.array_equal(half_of(pair[0], "A"), half_of(site, "A"))
        for pair in _pairs(sites).values()
        for site in pair[1:]
    )


def _doubled(sites: Sequence[Site], half_of: HalfOf) -> HalfOf:
    pairs = _pairs(sites)

    def doubled(site: Site, half: Half) -> np.ndarray:
        own = half_of(site, half)
        axis = _ROWS if half == "A" else _COLUMNS
        pair = pairs.get(site.module, []) if site.count and site.projection in {_GATE, _UP} else []
        if pair and half == "A":
            return np.concatenate([half_of(one, "A") for one in pair], axis=axis)
        parts = [own, np.zeros_like(own)]
        return np.concatenate(parts[::-1] if pair and site.projection == _UP else parts, axis=axis)

    return doubled


def _own_half(site: Site, half: Half, array: np.ndarray) -> np.ndarray:
    """Undo `_doubled`."""
    axis = _ROWS if half == "A" else _COLUMNS
    first, second = np.split(array, 2, axis=axis)
    return second if site.count and site.projection == _UP else first
