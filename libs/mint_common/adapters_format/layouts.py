"""The tensors of each layout: names, shapes and sites.

Shapes: E = experts of a layer, r = rank, I = width of an expert.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mint_common.adapters_format.names import DENSE, FUSED, HALVES, PACKED, Half, packed_name, peft_name
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.adapters_format.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor that a layout needs: one half of ``sites`` (two when gate and up are fused).

    ``expert`` is which expert's, None for all of them or for a dense module. ``shape[rank_axis]`` is
    ``per_rank`` times the rank.
    """

    name: str
    shape: tuple[int, ...]
    rank_axis: int
    per_rank: int
    sites: tuple[Site, ...]
    half: Half
    expert: int | None = None

    @property
    def is_stacked(self) -> bool:
        """Return whether it holds all experts of a layer."""
        return self.expert is None and self.sites[0].count > 0


def tensor_specs(layout: str, sites: Sequence[Site], *, rank: int) -> list[TensorSpec]:
    """Return the tensors of a layout's file for these sites, in load order.

    Raises AdapterInvalid when the layout cannot express them.
    """
    if layout != DENSE and not any(site.count for site in sites):
        problem = f"{layout} is for experts, and no target is one; needed {DENSE}"
        raise refusal(Reason.UNSUPPORTED_LAYOUT, problem)
    routed = _ROUTED[layout]
    specs: list[TensorSpec] = []
    for module, group in _by_module(sites):
        if group[0].count:
            specs.extend(routed(module, group, rank))
        else:
            specs.extend(_matrices(module, group[0], rank))
    return specs


def _by_module(sites: Iterable[Site]) -> Iterator[tuple[str, list[Site]]]:
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.module, []).append(site)
    yield from groups.items()


def _matrices(name: str, site: Site, rank: int, expert: int | None = None) -> Iterator[TensorSpec]:
    for half in HALVES:
        yield TensorSpec(
            name=peft_name(name, half),
            shape=(rank, site.width_in) if half == "A" else (site.width_out, rank),
            rank_axis=0 if half == "A" else 1,
            per_rank=1,
            sites=(site,),
            half=half,
            expert=expert,
        )


def _per_expert(module: str, group: Sequence[Site], rank: int) -> Iterator[TensorSpec]:
    """``<module>.<expert>.<projection>``: A [r, in], B [out, r]."""
    for site in group:
        for expert in range(site.count):
            yield from _matrices(f"{module}.{expert}.{site.projection}", site, rank, expert)


def _packed(module: str, group: Sequence[Site], rank: int) -> Iterator[TensorSpec]:
    """``<module>.<projection>``: A [E, r, in], B [E, out, r]."""
    for site in group:
        for half in HALVES:
            shape = (rank, site.width_in) if half == "A" else (site.width_out, rank)
            yield TensorSpec(
                name=packed_name(module, site.projection, half),
                shape=(site.count, *shape),
                rank_axis=1 if half == "A" else 2,
                per_rank=1,
                sites=(site,),
                half=half,
            )


def _fused(module: str, group: Sequence[Site], rank: int) -> Iterator[TensorSpec]:
    """``<module>.base_layer`` is gate and up, ``<module>`` down: A [E * r, in], B [out, r * E]."""
    sites = {site.projection: site for site in group}
    if set(sites) not in ({"gate_proj", "up_proj", "down_proj"}, {"down_proj"}):
        problem = f"{FUSED} holds down_proj, or all three projections of the experts; found {sorted(sites)}"
        raise refusal(Reason.UNSUPPORTED_LAYOUT, problem)
    pairs = {f"{module}.base_layer": ("gate_proj", "up_proj"), module: ("down_proj",)}
    for name, projections in pairs.items():
        parts = tuple(sites[projection] for projection in projections if projection in sites)
        for half in HALVES if parts else ():
            across = parts[0].count * rank
            height = sum(part.width_out for part in parts)
            yield TensorSpec(
                name=peft_name(name, half),
                shape=(across, parts[0].width_in) if half == "A" else (height, across),
                rank_axis=0 if half == "A" else 1,
                per_rank=parts[0].count,
                sites=parts,
                half=half,
            )


_ROUTED: dict[str, Callable[[str, Sequence[Site], int], Iterator[TensorSpec]]] = {
    DENSE: _per_expert,
    FUSED: _fused,
    PACKED: _packed,
}
