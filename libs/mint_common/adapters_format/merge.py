"""Merge an adapter into its base, as files of a full model.

A merged weight is W + B A with alpha in B, summed in float32 and rounded once to the base's dtype. A value
beyond float16 is refused, never written as infinity.
Invariants: nothing is computed before every target has been found with its shape; memory is bounded for any
tensor size; a merged file has the header of the base's, and so its names, order and size.
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.base_folder import BASE_FILE
from mint_common.adapters_format.convert import Progress, parts_of
from mint_common.adapters_format.experts import PartOf, narrowed, widened
from mint_common.adapters_format.origin import read_origin
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.adapters_format.tensor_file import ITEM_BYTES, TensorEntry, TensorFile, map_tensors
from mint_common.adapters_format.updates import products
from mint_common.errors import NotFound
from mint_common.model_files import WEIGHTS_FILE, weight_files
from mint_common.new_folder import new_folder

_PIECE_BYTES = 512 << 10
"""Bytes of weights merged at a time. In float32 they fit in a processor's cache; pieces of 4 MiB take four
times as long."""
_SECOND_COPY = "consolidated*.safetensors"
"""The same weights in Mistral's own layout, which would stay unmerged and which some loaders prefer."""
_OF_THE_BASE = (BASE_FILE, "SHA256SUMS")
_LARGE_UPDATE = 2.0**15
"""Half of what float16 holds, 65,504: an update of at most this norm exceeds it only on a weight near it."""

_Place = tuple[Site, int | None]
"""A weight of the base: of a dense module, or of one expert of a site."""
_Halves = Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some bytes of a file: how many, and what makes them when they are wanted."""

    size_bytes: int
    make: Callable[[], bytes | memoryview]


def ready_piece(data: bytes | memoryview) -> Piece:
    """Return a piece whose bytes are there already."""
    return Piece(size_bytes=len(data), make=lambda: data)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedFile:
    """A file of weights as consecutive pieces, each of which can be computed without the others."""

    name: str
    size_bytes: int
    pieces: Callable[[], Iterator[Piece]]


def plan_merge(facts: BaseFacts, base: Path, adapter: Path) -> list[MergedFile]:
    """Return the weights of a base's folder with an adapter of any layout merged into them.

    Both are mapped: the adapter's folder may be removed once this has returned. Raises NotFound,
    InvalidField, AdapterInvalid; the pieces of a float16 file may raise AdapterInvalid too: see `_sum`.
    """
    origin = read_origin(facts, adapter)
    places = _places(facts, targeted(all_sites(facts), origin.targets))
    part_of = parts_of(origin, map_tensors(adapter / WEIGHTS_FILE))
    files: list[MergedFile] = []
    targets: list[tuple[TensorFile, TensorEntry, _Halves]] = []
    missing = dict(places)
    for name in weight_files(base):
        if not (base / name).is_file():
            raise NotFound(kind="weights of the base", name=name)
        shard = map_tensors(base / name)
        for entry in shard.header.tensors:
            place = missing.pop(_module(entry), None)
            if place is not None:
                _check(entry, place[0])
                targets.append((shard, entry, _halves(place, part_of)))
        pieces = partial(_merged, shard, places, part_of)
        files.append(MergedFile(name=name, size_bytes=len(shard.mapped), pieces=pieces))
    if missing:
        raise _not_there(*next(iter(missing.items())))
    for target in targets:
        _check_range(*target)
    return files


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
    It is complete or absent. Raises AlreadyExists, and what `plan_merge` raises.
    """
    with new_folder(target) as draft:
        files = plan_merge(facts, base, adapter)
        total = sum(each.size_bytes for each in files)
        written = 0
        for each in files:
            with (draft / each.name).open("wb") as file:
                for piece in each.pieces():
                    written += file.write(piece.make())
                    progress(written, total)
        _copy_rest(base, draft, merged={each.name for each in files})
    return written


def _places(facts: BaseFacts, sites: list[Site]) -> dict[str, _Place]:
    """Return where an adapter acts, by the name that the weight has on disk. Raises AdapterInvalid."""
    places: dict[str, _Place] = {}
    for site in sites:
        name = facts.checkpoint_names.get(site.name, site.stored_name)
        if not site.count:
            places[name] = (site, None)
        elif "*" not in name:
            raise _in_one_tensor(name)
        for expert in range(site.count):
            places[name.replace("*", str(expert))] = (site, expert)
    return places


def _module(entry: TensorEntry) -> str:
    return entry.name.removesuffix(".weight")


def _check(entry: TensorEntry, site: Site) -> None:
    shape = (site.width_out, site.width_in)
    if entry.shape != shape or entry.dtype not in ITEM_BYTES:
        problem = f"{shown(entry.name)} is {entry.dtype} {list(entry.shape)}, needed floats {list(shape)}"
        raise refusal(Reason.WRONG_SHAPE, problem)


def _check_range(shard: TensorFile, entry: TensorEntry, halves: _Halves) -> None:
    """Refuse a large update that leads to weights which float16 cannot hold. Raises AdapterInvalid.

    The norm of an update takes no reading of the base; only where that is large, the sums are made to see.
    """
    if entry.dtype != "F16":
        return
    factors = halves()
    if float(products(factors, factors)) > _LARGE_UPDATE**2:
        for piece in _summed(shard, entry, lambda: factors):
            piece.make()


def _not_there(module: str, place: _Place) -> Exception:
    if place[1] is None:
        return NotFound(kind="weight of the base", name=f"{module}.weight")
    return _in_one_tensor(place[0].module)


def _in_one_tensor(name: str) -> Exception:
    problem = (
        f"{name} holds all experts of a layer in one tensor, into which MinT does not merge. Save the base"
        " again with transformers, which writes most families' experts apart, or load the adapter beside it"
    )
    return refusal(Reason.UNSUPPORTED_LAYOUT, problem)


def _merged(shard: TensorFile, places: Mapping[str, _Place], part_of: PartOf) -> Iterator[Piece]:
    """Yield a file with the targets that it has merged; pages of the base are released on the way."""
    begin = shard.header.data_begin
    yield from _copied(shard, 0, begin)
    for entry in shard.header.tensors:
        place = places.get(_module(entry))
        if place is None:
            yield from _copied(shard, begin + entry.begin, begin + entry.end)
        else:
            yield from _summed(shard, entry, cache(_halves(place, part_of)))


def _copied(shard: TensorFile, begin: int, end: int) -> Iterator[Piece]:
    whole = memoryview(shard.mapped)
    for start in range(begin, end, _PIECE_BYTES):
        yield ready_piece(whole[start : min(start + _PIECE_BYTES, end)])
        shard.release()


def _halves(place: _Place, part_of: PartOf) -> _Halves:
    """Return a reader of A and B of a weight, as float32."""
    site, expert = place
    return lambda: (widened(part_of(site, "A", expert)), widened(part_of(site, "B", expert)))


def _summed(shard: TensorFile, entry: TensorEntry, halves: _Halves) -> Iterator[Piece]:
    weight = shard.array(entry)
    rows = max(1, _PIECE_BYTES // (weight.itemsize * weight.shape[1]))
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        yield Piece(size_bytes=part.nbytes, make=partial(_sum, part, halves, start, entry.name))
        shard.release()


def _sum(weight: np.ndarray, halves: _Halves, first_row: int, name: str) -> memoryview:
    """Return some rows of a weight, merged; BF16 is uint16 here.

    Raises AdapterInvalid where a sum is more than float16 holds. The other dtypes hold every sum: see
    `MAX_WEIGHT`.
    """
    a, b = halves()
    update = b[first_row : first_row + len(weight)] @ a
    with np.errstate(over="ignore"):
        merged = narrowed(widened(weight) + update, weight.dtype)
    if weight.dtype == np.float16 and (np.isinf(merged) & ~np.isinf(weight)).any():
        problem = f"{shown(name)} with the update is more than float16 holds, {np.finfo(np.float16).max:g}"
        raise refusal(Reason.UPDATE_TOO_LARGE, problem)
    return np.ascontiguousarray(merged).reshape(-1).view(np.uint8).data


def _copy_rest(base: Path, draft: Path, *, merged: Collection[str]) -> None:
    for file in sorted(base.iterdir()):
        left_out = file.name in merged or file.name in _OF_THE_BASE or fnmatch(file.name, _SECOND_COPY)
        if file.is_file() and not left_out:
            shutil.copy2(file, draft / file.name)
