"""Turn an adapter folder of any layout into another layout, lossless but for the rounding of a folded alpha.

Invariants: memory stays bounded by twice the largest tensor that is written, whatever the size of the
adapter; the new folder is complete and checked, or absent.
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_folder
from mint_common.adapters_format.config import write_config
from mint_common.adapters_format.experts import (
    PartOf,
    filled,
    read_expert,
    read_half,
    scaled,
    sources_of,
    write_half,
)
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.manifest import FileProof, Manifest, new_manifest, write_manifest
from mint_common.adapters_format.names import DENSE, PACKED, Half
from mint_common.adapters_format.origin import Origin, read_origin
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.adapters_format.tensor_file import (
    NUMPY_OF_DTYPE,
    PAD_DTYPE,
    TensorEntry,
    TensorFile,
    header_bytes,
    map_tensors,
    place,
)
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from mint_common.new_folder import new_folder

_RELEASED_BYTES = 16 << 20
"""The pages of the source are released after this many bytes."""

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all) from time to time."""


def convert_adapter(
    facts: BaseFacts,
    source: Path,
    target: Path,
    *,
    layout: str,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Write an adapter in a layout to a new folder and return its manifest.

    Raises NotFound, AlreadyExists, AdapterInvalid.
    """
    return write_adapter(facts, read_origin(facts, source), source, target, layout=layout, progress=progress)


def write_adapter(
    facts: BaseFacts,
    origin: Origin,
    source: Path,
    target: Path,
    *,
    layout: str,
    progress: Progress = lambda _done, _total: None,
    max_ratio: float = math.inf,
) -> Manifest:
    """Write the adapter of a folder as its origin plans it to a new folder and return its manifest.

    An adapter without experts has but one layout, so it becomes `dense/1`. ``max_ratio`` is `check_folder`'s.
    Raises AlreadyExists, AdapterInvalid.
    """
    with new_folder(target) as draft:
        sites = targeted(all_sites(facts), origin.targets)
        if not any(site.count for site in sites):
            layout = DENSE
        specs = tensor_specs(layout, sites, rank=origin.rank)
        tensors = map_tensors(source / WEIGHTS_FILE)
        with (draft / WEIGHTS_FILE).open("wb") as file:
            proof = _write_weights(file, specs, origin, tensors, aligned=layout == PACKED, progress=progress)
        config = write_config(facts, rank=origin.rank, layout=layout, targets=origin.targets)
        (draft / CONFIG_FILE).write_bytes(config)
        manifest = new_manifest(
            facts,
            layout=layout,
            policy_id=origin.policy_id,
            step=origin.step,
            parent=origin.parent,
            rank=origin.rank,
            targets=origin.targets,
            dtype=origin.dtype,
            weights=proof,
            config=config,
        )
        (draft / MANIFEST_FILE).write_bytes(write_manifest(manifest))
        check_folder(facts, manifest, draft, max_ratio=max_ratio)
    return manifest


def _write_weights(
    file: BinaryIO,
    specs: list[TensorSpec],
    origin: Origin,
    tensors: TensorFile,
    *,
    aligned: bool,
    progress: Progress,
) -> FileProof:
    if not aligned:
        specs = sorted(specs, key=lambda spec: spec.name)
    entries = place(((spec.name, origin.dtype, spec.shape) for spec in specs), aligned=aligned)
    total = entries[-1].end
    sha256 = hashlib.sha256()
    head = header_bytes(entries)
    written, told = len(head), 0
    sha256.update(head)
    file.write(head)
    by_name = {spec.name: spec for spec in specs}
    part_of = parts_of(origin, tensors)
    read = 0
    for entry in entries:
        written += _append(file, sha256, _data(entry, by_name, part_of))
        read += entry.end - entry.begin
        if read >= _RELEASED_BYTES:
            tensors.release()
            read = 0
        if entry.end - told >= total // 100:
            told = entry.end
            progress(told, total)
    return FileProof(sha256=sha256.hexdigest(), size_bytes=written)


def _append(file: BinaryIO, sha256: "hashlib._Hash", data: bytes | memoryview) -> int:
    """Write and hash a tensor, of which nothing stays when this returns."""
    sha256.update(data)
    file.write(data)
    return len(data)


def _data(entry: TensorEntry, specs: dict[str, TensorSpec], part_of: PartOf) -> bytes | memoryview:
    if entry.dtype == PAD_DTYPE:
        return bytes(entry.end - entry.begin)
    spec = specs[entry.name]
    if spec.expert is None:
        array = write_half(spec, lambda site, half: part_of(site, half, None))
    else:
        array = part_of(spec.sites[0], spec.half, spec.expert)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def parts_of(origin: Origin, tensors: TensorFile) -> PartOf:
    """Return a reader of an adapter's halves and experts, alpha folded into B, whatever its layout."""
    sources = sources_of(origin.specs)
    zero_dtype = NUMPY_OF_DTYPE[origin.dtype]

    def read(spec: TensorSpec) -> np.ndarray:
        part = origin.parts.get(spec.name)
        if part is None:
            return np.zeros(spec.shape, dtype=zero_dtype)
        array = filled(tensors.array(part.entry), spec)
        return array if spec.is_stacked else scaled(array, part.factor)

    def part_of(site: Site, half: Half, expert: int | None) -> np.ndarray:
        if expert is None:
            array = read_half(site, half, sources, read)
        else:
            array = read_expert(site, half, expert, sources, read)
        first = sources[site.name, half][0]
        part = origin.parts.get(first.name)
        # Of all experts' tensor only what was asked for is scaled: a copy of the whole would be large.
        return scaled(array, part.factor) if part and first.is_stacked else array

    return part_of
