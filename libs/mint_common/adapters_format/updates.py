"""Limit the update of a module: the norm of B A, alpha folded in, relative to the base's weight.

Invariant: nothing overflows, because weights of `MAX_WEIGHT` and above are refused before.
"""

import math
from collections.abc import Sequence

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.experts import read_half, sources_of, widened
from mint_common.adapters_format.layouts import TensorSpec
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.adapters_format.sites import Site
from mint_common.adapters_format.tensor_file import TensorFile

MAX_WEIGHT = 2.0**16
"""Exclusive limit of a weight's magnitude: float16 ends there, trained weights stay below ten, and no
product of an A, a B and an input overflows float32."""

Factors = tuple[np.ndarray, np.ndarray]
"""An A [..., r, in] and B [..., out, r], experts in front."""

_AT_ONCE = 1 << 18
_RELEASED = 1 << 22
"""The pages of the file are released after this many weights."""


def check_updates(
    facts: BaseFacts, specs: Sequence[TensorSpec], file: TensorFile, *, dtype: str, max_ratio: float
) -> None:
    """Check each module's update, each expert's on its own. Raises AdapterInvalid.

    A base whose own norm is not known, or is zero, counts as weights of magnitude 1.
    """
    sites = {site.name: site for spec in specs for site in spec.sites}.values()
    limits = {site.name: max_ratio * _norm_of_base(facts, site) for site in sites}
    if _is_small(file, dtype, min(limits.values())):
        return
    sources, places = sources_of(specs), {entry.name: entry for entry in file.header.tensors}
    for site in sites:
        a, b = (
            widened(read_half(site, half, sources, lambda spec: file.array(places[spec.name])))
            for half in HALVES
        )
        found = math.sqrt(max(0.0, float(np.max(products((a, b), (a, b))))))
        if found > limits[site.name]:
            raise _refusal(site, found, limits[site.name], max_ratio)
        file.release()


def _is_small(file: TensorFile, dtype: str, limit: float) -> bool:
    """Return whether no update can be beyond a limit, whatever its module: so it is with most adapters.

    No |B A| is more than |B| |A|, which is at most half the sum of their squares.
    """
    flat, total = file.flat(dtype), 0.0
    for begin in range(0, flat.size, _RELEASED):
        total += sum_of_squares(flat[begin : begin + _RELEASED])
        file.release()
        if total / 2 > limit:
            return False
    return True


def products(one: Factors, other: Factors) -> np.ndarray:
    """Return the sum over all elements of (B1 A1) * (B2 A2), each expert's: tr((B1' B2) (A2 A1')).

    Nothing as large as a weight is made on the way.
    """
    outer = np.swapaxes(one[1], -1, -2) @ other[1]
    inner = other[0] @ np.swapaxes(one[0], -1, -2)
    sums: np.ndarray = np.sum(outer * np.swapaxes(inner, -1, -2), axis=(-1, -2))
    return sums


def sum_of_squares(array: np.ndarray) -> float:
    """Return the square of an array's Frobenius norm; BF16 is uint16 here."""
    if array.ndim > 2:  # experts, whose halves may not be contiguous
        return sum(map(sum_of_squares, array))
    flat, total = array.reshape(-1), 0.0
    for begin in range(0, flat.size, _AT_ONCE):
        wide = widened(flat[begin : begin + _AT_ONCE]).astype(np.float64)
        total += float(np.einsum("i,i->", wide, wide))  # a dot product would wake threads of its own
    return total


def _norm_of_base(facts: BaseFacts, site: Site) -> float:
    """Return the norm of the base's weight at a site; of experts that of one of them, on average."""
    whole = facts.norms.get(site.name) or math.sqrt(site.width_in * site.width_out * max(1, site.count))
    return whole / math.sqrt(max(1, site.count))


def _refusal(site: Site, found: float, limit: float, max_ratio: float) -> Exception:
    what = f"an expert of {site.name}" if site.count else site.name
    times = f"{found / limit * max_ratio:.3g} times that of the base's weight, allowed are {max_ratio:g}"
    return refusal(Reason.UPDATE_TOO_LARGE, f"the update of {what} has a norm of {found:.3g}, {times}")
