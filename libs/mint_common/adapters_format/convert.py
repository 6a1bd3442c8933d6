"""Turn an adapter folder of any layout into another layout, lossless but for the rounding of a folded alpha.

Invariants: memory stays bounded by twice one half of one layer's projection, whatever the size of the
adapter (six times where a file per expert is written); the new folder is complete and checked, or absent.
"""

import hashlib
import secrets
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_folder
from mint_common.adapters_format.config import write_config
from mint_common.adapters_format.experts import HalfOf, read_half, scaled, sources_of, write_half
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.manifest import (
    FileProof,
    Manifest,
    adapter_digest,
    proof_of,
    write_manifest,
)
from mint_common.adapters_format.names import (
    CONFIG_FILE,
    DENSE,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    Half,
)
from mint_common.adapters_format.origin import Origin, read_origin
from mint_common.adapters_format.sites import Site, all_sites, targeted
from mint_common.adapters_format.tensor_file import (
    PAD_DTYPE,
    TensorEntry,
    TensorFile,
    header_bytes,
    map_tensors,
    place,
)
from mint_common.errors import AlreadyExists

_OF_A_LAYER = 6
"""Halves of the projections of a layer of experts: A and B of gate, up and down."""
_RELEASED_BYTES = 16 << 20
"""After so many bytes the pages of the source are let go."""

Progress = Callable[[int, int], None]
"""Told (bytes written, bytes in all) now and then."""


def convert_adapter(
    facts: BaseFacts,
    source: Path,
    target: Path,
    *,
    layout: str,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Write an adapter in a layout to a new folder and return its manifest.

    An adapter without experts has but one layout, so it becomes `dense/1`. Raises NotFound, AlreadyExists,
    AdapterInvalid.
    """
    if target.exists():
        raise AlreadyExists(kind="folder", name=str(target))
    origin = read_origin(facts, source)
    sites = targeted(all_sites(facts), origin.targets)
    if not any(site.count for site in sites):
        layout = DENSE
    specs = tensor_specs(layout, sites, rank=origin.rank)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        draft.mkdir(parents=True)
        tensors = map_tensors(source / WEIGHTS_FILE)
        with (draft / WEIGHTS_FILE).open("wb") as file:
            proof = _write_weights(file, specs, origin, tensors, aligned=layout == PACKED, progress=progress)
        config = write_config(base=facts.name, rank=origin.rank, layout=layout, targets=origin.targets)
        (draft / CONFIG_FILE).write_bytes(config)
        manifest = _manifest(facts, origin, layout, proof, proof_of(config))
        (draft / MANIFEST_FILE).write_bytes(write_manifest(manifest))
        check_folder(facts, manifest, draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _manifest(
    facts: BaseFacts, origin: Origin, layout: str, weights: FileProof, config: FileProof
) -> Manifest:
    digest = adapter_digest(
        layout=layout,
        base_digest=facts.digest,
        rank=origin.rank,
        targets=origin.targets,
        dtype=origin.dtype,
        weights_sha256=weights.sha256,
    )
    return Manifest(
        layout=layout,
        digest=digest,
        base=facts.name,
        base_digest=facts.digest,
        policy_id=origin.policy_id,
        step=origin.step,
        parent=origin.parent,
        rank=origin.rank,
        targets=origin.targets,
        dtype=origin.dtype,
        files={WEIGHTS_FILE: weights, CONFIG_FILE: config},
    )


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
    # Files in name order come back to a layer's projections expert by expert: those of one layer are kept.
    half_of = halves_of(origin, tensors, kept=_OF_A_LAYER if _is_by_expert(specs) else 0)
    read = 0
    for entry in entries:
        written += _append(file, sha256, _data(entry, by_name, half_of))
        read += entry.end - entry.begin
        if read >= _RELEASED_BYTES:
            tensors.release()
            read = 0
        if entry.end - told >= total // 100:
            told = entry.end
            progress(told, total)
    return FileProof(sha256=sha256.hexdigest(), size_bytes=written)


def _is_by_expert(specs: list[TensorSpec]) -> bool:
    return any(spec.expert is not None for spec in specs)


def _append(file: BinaryIO, sha256: "hashlib._Hash", data: bytes | memoryview) -> int:
    """Write and hash a tensor, of which nothing stays when this returns."""
    sha256.update(data)
    file.write(data)
    return len(data)


def _data(entry: TensorEntry, specs: dict[str, TensorSpec], half_of: HalfOf) -> bytes | memoryview:
    if entry.dtype == PAD_DTYPE:
        return bytes(entry.end - entry.begin)
    return np.ascontiguousarray(write_half(specs[entry.name], half_of)).reshape(-1).view(np.uint8).data


def halves_of(origin: Origin, tensors: TensorFile, *, kept: int = _OF_A_LAYER) -> HalfOf:
    """Return a reader of an adapter's halves, alpha folded into B, whatever its layout.

    As many halves as ``kept`` stay in memory for who comes back to them.
    """
    places = {entry.name: entry for entry in tensors.header.tensors}
    sources = sources_of(origin.specs)

    @lru_cache(maxsize=kept)
    def half_of(site: Site, half: Half) -> np.ndarray:
        array = read_half(site, half, sources, lambda spec: tensors.array(places[spec.name]))
        return scaled(array, origin.scaling) if half == "B" else array

    return half_of
