"""The halves of a site as arrays, out of any layout and into any other, without copying where shapes allow.

A dense module's half is A ``[r, in]`` or B ``[out, r]``; that of an experts' projection has the experts in
front: A ``[E, r, in]``, B ``[E, out, r]``. PEFT's fused A is expert-major, ``[E * r, in]``, but its fused B
is rank-major, ``[out, r * E]``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mint_common.adapters_format.layouts import TensorSpec
from mint_common.adapters_format.names import Half
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.adapters_format.sites import Site

Read = Callable[[TensorSpec], np.ndarray]
"""Returns the tensor of a spec."""
HalfOf = Callable[[Site, Half], np.ndarray]
"""Returns half a site."""
PartOf = Callable[[Site, Half, int | None], np.ndarray]
"""Returns half a site, or one expert's part of it."""
_SCALED_AT_ONCE = 1 << 18
Sources = Mapping[tuple[str, Half], Sequence[TensorSpec]]
"""(site's name, half) -> the tensors that hold it: one, or one for each expert."""


def sources_of(specs: Sequence[TensorSpec]) -> Sources:
    """Return where each half of each site is."""
    sources: dict[tuple[str, Half], list[TensorSpec]] = {}
    for spec in specs:
        for site in spec.sites:
            sources.setdefault((site.name, spec.half), []).append(spec)
    return sources


def read_half(site: Site, half: Half, sources: Sources, read: Read) -> np.ndarray:
    """Return half a site out of the tensors of any layout."""
    specs = sources[site.name, half]
    first = specs[0]
    if first.expert is not None:
        return np.stack([read(spec) for spec in specs])
    array: np.ndarray = read(first)
    if not site.count or array.ndim == 3:
        return array
    if half == "A":
        return array.reshape(site.count, -1, array.shape[1])
    place = first.sites.index(site)
    if site.interleaved:
        rows = array[place :: len(first.sites)]
    else:
        begin = sum(part.width_out for part in first.sites[:place])
        rows = array[begin : begin + site.width_out]
    return rows.reshape(site.width_out, -1, site.count).transpose(2, 0, 1)


def read_expert(site: Site, half: Half, expert: int, sources: Sources, read: Read) -> np.ndarray:
    """Return one expert's of half a site, without touching the others'."""
    specs = sources[site.name, half]
    if specs[0].expert is not None:
        return read(specs[expert])
    array: np.ndarray = read_half(site, half, sources, read)[expert]
    return array


def write_half(spec: TensorSpec, half_of: HalfOf) -> np.ndarray:
    """Return the tensor of a spec, of any layout. Raises AdapterInvalid where fusing would lose something."""
    halves = [half_of(site, spec.half) for site in spec.sites]
    if spec.expert is not None:
        one: np.ndarray = halves[0][spec.expert]
        return one
    if len(spec.shape) == halves[0].ndim:
        return halves[0]
    if spec.half == "A":
        if not all(np.array_equal(halves[0], other) for other in halves[1:]):
            names = " and ".join(site.name for site in spec.sites)
            problem = f"{names} have an A each; a fused file has one for both"
            raise refusal(Reason.UNSUPPORTED_LAYOUT, problem)
        return halves[0].reshape(spec.shape)
    if spec.sites[0].interleaved:
        whole = np.stack(halves, axis=2).reshape(len(halves[0]), -1, halves[0].shape[2])
    else:
        whole = np.concatenate(halves, axis=1)
    return whole.transpose(1, 2, 0).reshape(spec.shape)


def filled(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Return a spec's tensor of a lower rank at the spec's own: the ranks that it lacks are zeros."""
    if array.shape == spec.shape:
        return array
    whole = np.zeros(spec.shape, dtype=array.dtype)
    if spec.half == "A" and array.ndim == 2:  # expert-major; a dense module is one expert
        width = spec.shape[1]
        lower = array.reshape(spec.per_rank, -1, width)
        whole.reshape(spec.per_rank, -1, width)[:, : lower.shape[1]] = lower
    else:
        whole[tuple(map(slice, array.shape))] = array
    return whole


def scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """Return an array times a factor, rounded to the array's own dtype; BF16 is uint16 here.

    One that may be written to is changed in place; of another one there is one copy.
    """
    if factor == 1:
        return array
    own = array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
    flat = own.reshape(-1)
    for begin in range(0, flat.size, _SCALED_AT_ONCE):
        part = flat[begin : begin + _SCALED_AT_ONCE]
        part[...] = narrowed(widened(part) * np.float32(factor), part.dtype)
    return own


def widened(array: np.ndarray) -> np.ndarray:
    """Return an array as float32, exactly; BF16 is uint16 here."""
    if array.dtype != np.uint16:
        return array.astype(np.float32, copy=False)
    return (array.astype(np.uint32) << 16).view(np.float32)


def narrowed(wide: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a float32 array rounded to a dtype, to nearest and ties to even; BF16 is uint16 here."""
    if dtype != np.uint16:
        return wide.astype(dtype, copy=False)
    bits = np.ascontiguousarray(wide).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    # NaN and infinity stay what they are for the check to find.
    return (np.where(np.isfinite(wide), rounded, bits) >> 16).astype(np.uint16)
