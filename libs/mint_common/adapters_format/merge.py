"""Write a base with an adapter merged into it, as a full checkpoint, for engines that cannot serve adapters.

A merged weight is W + B A with alpha in B, summed in float32 and rounded once to the base's dtype.
Invariants: memory stays bounded by the base's largest tensor; the new folder is complete, every target
merged, or absent. A merged file has the header of the base's, and so its names, order and size.
"""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.base_folder import BASE_FILE
from mint_common.adapters_format.convert import Progress, parts_of
from mint_common.adapters_format.experts import PartOf, narrowed, widened
from mint_common.adapters_format.names import WEIGHTS_FILE
from mint_common.adapters_format.origin import read_origin
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.adapters_format.tensor_file import ITEM_BYTES, TensorEntry, TensorFile, map_tensors
from mint_common.errors import AlreadyExists, NotFound

_CHUNK_BYTES = 16 * 1024 * 1024
_OF_THE_BASE = (BASE_FILE, "SHA256SUMS")

_Place = tuple[Site, int | None]
"""A weight of the base: of a dense module, or of one expert of a site."""


def merge_adapter(
    facts: BaseFacts,
    base: Path,
    adapter: Path,
    target: Path,
    *,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Write the base of a folder, with an adapter of any layout merged, to a new folder; return its bytes.

    The new folder has everything of the base's but ``mint_base.json`` and checksums: it is another base now.
    Raises NotFound, AlreadyExists, AdapterInvalid.
    """
    if target.exists():
        raise AlreadyExists(kind="folder", name=str(target))
    origin = read_origin(facts, adapter)
    places = _places(targeted(all_sites(facts), origin.targets))
    shards = sorted(base.glob("*.safetensors"))
    total = sum(shard.stat().st_size for shard in shards)
    part_of = parts_of(origin, map_tensors(adapter / WEIGHTS_FILE))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        draft.mkdir(parents=True)
        written = 0
        for shard in shards:
            with (draft / shard.name).open("wb") as file:
                for data in _merged(map_tensors(shard), places, part_of):
                    file.write(data)
                    written += len(data)
                    progress(written, total)
        if places:
            raise NotFound(kind="weight of the base", name=f"{next(iter(places))}.weight")
        _copy_rest(base, draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return written


def _places(sites: list[Site]) -> dict[str, _Place]:
    """Return where an adapter acts, by the name of the module that has the weight on disk."""
    places: dict[str, _Place] = {}
    for site in sites:
        if not site.count:
            places[site.name] = (site, None)
        for expert in range(site.count):
            places[f"{site.module}.{expert}.{site.projection}"] = (site, expert)
    return places


def _merged(shard: TensorFile, places: dict[str, _Place], part_of: PartOf) -> Iterator[memoryview]:
    """Yield a shard's bytes with its targets merged, and take those from ``places``."""
    whole = memoryview(shard.mapped)
    yield whole[: shard.header.data_begin]
    for entry in shard.header.tensors:
        place = places.pop(entry.name.removesuffix(".weight"), None)
        if place is None:
            begin, end = shard.header.data_begin + entry.begin, shard.header.data_begin + entry.end
            for start in range(begin, end, _CHUNK_BYTES):
                yield whole[start : min(start + _CHUNK_BYTES, end)]
        else:
            yield _sum(shard, entry, place, part_of).reshape(-1).view(np.uint8).data


def _sum(shard: TensorFile, entry: TensorEntry, place: _Place, part_of: PartOf) -> np.ndarray:
    site, expert = place
    shape = (site.width_out, site.width_in)
    if entry.shape != shape or entry.dtype not in ITEM_BYTES:
        problem = f"{shown(entry.name)} is {entry.dtype} {list(entry.shape)}, needed floats {list(shape)}"
        raise refusal(Reason.WRONG_SHAPE, problem)
    a, b = (widened(part_of(site, half, expert)) for half in ("A", "B"))
    weight = shard.array(entry)
    merged: np.ndarray = np.ascontiguousarray(narrowed(widened(weight) + b @ a, weight.dtype))
    return merged


def _copy_rest(base: Path, draft: Path) -> None:
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name not in _OF_THE_BASE:
            shutil.copy2(file, draft / file.name)
