"""Frobenius norms of B A by site: an adapter's size per module, and the distance of two adapters."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.convert import parts_of
from mint_common.adapters_format.experts import PartOf, widened
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.origin import read_origin
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.adapters_format.tensor_file import map_tensors
from mint_common.adapters_format.updates import Factors, products
from mint_common.model_files import WEIGHTS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleChange:
    """The norms of B A of a module in two adapters, and that of their difference.

    A module that an adapter does not act on counts as 0. All experts of a projection are one module.
    """

    module: str
    before: float
    after: float
    change: float


def compare_adapters(facts: BaseFacts, before: Path, after: Path) -> list[ModuleChange]:
    """Return every module that one of two adapter folders of any layout acts on, in load order.

    Raises NotFound, AdapterInvalid.
    """
    one, other = _read(facts, before), _read(facts, after)
    names = one.sites.keys() | other.sites.keys()
    return [
        _change(site.name, one.factors(site), other.factors(site))
        for site in all_sites(facts)
        if site.name in names
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    sites: dict[str, Site]
    part_of: PartOf

    def factors(self, site: Site) -> Factors | None:
        """Return A and B of a site in float64, or None where the adapter does not act."""
        if site.name not in self.sites:
            return None
        a, b = (widened(self.part_of(site, half, None)).astype(np.float64) for half in HALVES)
        return a, b


def _read(facts: BaseFacts, folder: Path) -> _Opened:
    origin = read_origin(facts, folder)
    sites = {site.name: site for site in targeted(all_sites(facts), origin.targets)}
    return _Opened(sites=sites, part_of=parts_of(origin, map_tensors(folder / WEIGHTS_FILE)))


def _change(module: str, before: Factors | None, after: Factors | None) -> ModuleChange:
    of_before, of_after = _product(before, before), _product(after, after)
    # Rounding may make the difference of nearly equal adapters slightly negative.
    difference = max(0.0, of_before + of_after - 2.0 * _product(before, after))
    return ModuleChange(
        module=module,
        before=float(np.sqrt(of_before)),
        after=float(np.sqrt(of_after)),
        change=float(np.sqrt(difference)),
    )


def _product(one: Factors | None, other: Factors | None) -> float:
    return 0.0 if one is None or other is None else float(np.sum(products(one, other)))
