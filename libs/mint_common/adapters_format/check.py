"""Checks of an adapter against its manifest and its base.

Invariant: for any bytes, a check returns or raises AdapterInvalid with one of the words of `Reason`.
Memory stays bounded by the header and one chunk, whatever the size of the weights.
"""

import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.config import check_config
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.manifest import Manifest, adapter_digest
from mint_common.adapters_format.names import HALVES, LAYOUTS, PACKED, leaf_of, twig_of
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.sites import all_sites, targeted
from mint_common.adapters_format.tensor_file import (
    ALIGNMENT,
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    PAD_DTYPE,
    TensorEntry,
    TensorFile,
    TensorHeader,
    map_tensors,
    place,
    read_header,
    read_tensors,
)
from mint_common.adapters_format.updates import MAX_WEIGHT, check_updates
from mint_common.model_files import CONFIG_FILE, WEIGHTS_FILE

MAX_CONFIG_BYTES = 1 << 20

_CHUNK_BYTES = 4 << 20
_EXPONENTS: Mapping[str, tuple[str, int, int]] = {
    "F32": ("<u4", 0x7F80_0000, 0x4780_0000),
    "BF16": ("<u2", 0x7F80, 0x4780),
    "F16": ("<u2", 0x7C00, 0x7C00),
}
"""dtype -> (integer view, exponent bits, those of `MAX_WEIGHT`): all of them set means NaN or infinite."""


def check_adapter(
    facts: BaseFacts, manifest: Manifest, weights: bytes, *, max_ratio: float = math.inf
) -> None:
    """Check the manifest against the base and the weights against both; see `check_folder`."""
    check_manifest(facts, manifest)
    _check_weights(facts, manifest, io.BytesIO(weights), len(weights), is_bounded=max_ratio < math.inf)
    if max_ratio < math.inf:
        _check_updates(facts, manifest, read_tensors(weights), max_ratio)


def check_folder(
    facts: BaseFacts, manifest: Manifest, folder: Path, *, proved: bool = False, max_ratio: float = math.inf
) -> None:
    """Check all files of a staged adapter. Raises AdapterInvalid.

    ``proved`` files were checked against the manifest before, and are not hashed again. ``max_ratio`` is how
    many times the norm of the base's own weight a module's update may have at most; a finite one bounds
    single weights too (`MAX_WEIGHT`).
    """
    check_manifest(facts, manifest)
    check_config(facts, manifest, (folder / CONFIG_FILE).read_bytes())
    with (folder / WEIGHTS_FILE).open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        _check_weights(facts, manifest, file, size_bytes, proved=proved, is_bounded=max_ratio < math.inf)
    if max_ratio < math.inf:
        _check_updates(facts, manifest, map_tensors(folder / WEIGHTS_FILE), max_ratio)


def check_manifest(facts: BaseFacts, manifest: Manifest) -> None:
    """Check what needs no weights, so that nothing big is fetched in vain. Raises AdapterInvalid."""
    if manifest.layout not in LAYOUTS:
        problem = f"{shown(manifest.layout)}, known are {', '.join(LAYOUTS)}"
        raise refusal(Reason.UNSUPPORTED_LAYOUT, problem)
    if (manifest.base, manifest.base_digest) != (facts.name, facts.digest):
        found = f"{shown(manifest.base)} {manifest.base_digest}"
        raise refusal(Reason.WRONG_BASE, f"trained over {found}, needed {facts.name} {facts.digest}")
    check_targets(facts, manifest.targets)
    if manifest.rank > facts.max_rank:
        raise refusal(
            Reason.WRONG_RANK, f"rank {manifest.rank}, the limit of {facts.name} is {facts.max_rank}"
        )
    if manifest.dtype not in ITEM_BYTES:
        raise refusal(Reason.WRONG_DTYPE, f"{shown(manifest.dtype)}, allowed are {', '.join(ITEM_BYTES)}")
    _check_size(facts, manifest)


def check_targets(facts: BaseFacts, targets: Collection[str]) -> None:
    """Check that there are targets, and that the base has each. Raises AdapterInvalid."""
    if not targets:
        raise refusal(Reason.NO_MODULES, "the adapter has no targets")
    sites = all_sites(facts)
    known = {leaf_of(site.name) for site in sites} | {twig_of(site.name) for site in sites}
    foreign = sorted(set(targets) - known)
    if foreign:
        raise refusal(Reason.WRONG_TARGETS, f"{', '.join(foreign)} not in {', '.join(facts.targets)}")


def header_limit(facts: BaseFacts) -> int:
    """Return how large a header an adapter of a base may have: twice what naming all it could have takes."""
    names = sum(len(HALVES) * max(1, site.count) * (len(site.name) + 250) for site in all_sites(facts))
    return min(MAX_HEADER_BYTES, 2 * names + (1 << 20))


def check_header(specs: Sequence[TensorSpec], header: TensorHeader, *, dtype: str, aligned: bool) -> None:
    """Check that a file holds these tensors and nothing else. Raises AdapterInvalid."""
    tensors = [entry for entry in header.tensors if not (aligned and entry.dtype == PAD_DTYPE)]
    by_name = {spec.name: spec for spec in specs}
    _check_names(by_name, tensors)
    for tensor in tensors:
        if tensor.dtype != dtype:
            problem = f"{shown(tensor.name)} is {shown(tensor.dtype)}, the adapter is {dtype}"
            raise refusal(Reason.WRONG_DTYPE, problem)
    for tensor in tensors:
        _check_shape(by_name[tensor.name], tensor)
    if aligned:
        _check_places(specs, header, dtype)


def check_values(path: Path, dtype: str) -> None:
    """Check that all weights of a file are numbers below `MAX_WEIGHT`. Raises AdapterInvalid."""
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        _check_values(file, header, dtype, None, is_bounded=True)


def _check_size(facts: BaseFacts, manifest: Manifest) -> None:
    specs = _specs(facts, manifest)
    # A pad before every tensor, at most.
    weights = sum(math.prod(spec.shape) * ITEM_BYTES[manifest.dtype] + ALIGNMENT for spec in specs)
    limit = weights + MAX_HEADER_BYTES + 8
    found = manifest.files[WEIGHTS_FILE].size_bytes
    if found > limit:
        raise refusal(Reason.WRONG_SHAPE, f"{found} bytes of weights, at most {limit} fit the base")
    if manifest.files[CONFIG_FILE].size_bytes > MAX_CONFIG_BYTES:
        raise refusal(
            Reason.UNSUPPORTED_CONFIG, f"adapter_config.json has more than {MAX_CONFIG_BYTES} bytes"
        )


def _specs(facts: BaseFacts, manifest: Manifest) -> Sequence[TensorSpec]:
    shape = manifest.layout, manifest.targets, manifest.rank
    for known, kept_shape, kept in tuple(_KEPT):
        if known is facts and kept_shape == shape:
            return kept
    specs = tensor_specs(manifest.layout, targeted(all_sites(facts), manifest.targets), rank=manifest.rank)
    if len(specs) <= _MAX_KEPT:
        _KEPT.append((facts, shape, specs))
    return specs


_MAX_KEPT = 4096
_KEPT: deque[tuple[BaseFacts, tuple[str, Sequence[str], int], Sequence[TensorSpec]]] = deque(maxlen=8)
"""Cache of the last expected shapes: most adapters of a base share one."""


def _check_weights(
    facts: BaseFacts,
    manifest: Manifest,
    file: BinaryIO,
    size_bytes: int,
    *,
    is_bounded: bool,
    proved: bool = False,
) -> None:
    header = read_header(file, size_bytes=size_bytes, limit=header_limit(facts))
    check_header(_specs(facts, manifest), header, dtype=manifest.dtype, aligned=manifest.layout == PACKED)
    file.seek(0)
    head = file.read(header.data_begin)
    sha256 = None if proved else hashlib.sha256(head)
    _check_values(file, header, manifest.dtype, sha256, is_bounded=is_bounded)
    _check_pads(file, header)
    found = manifest.files[WEIGHTS_FILE].sha256 if sha256 is None else sha256.hexdigest()
    _check_digest(manifest, found, size_bytes)


def _check_names(specs: Mapping[str, TensorSpec], tensors: Sequence[TensorEntry]) -> None:
    found = {tensor.name for tensor in tensors}
    unknown = sorted(found - specs.keys())
    if unknown:
        problem = f"{shown(unknown[0])} belongs to no target module ({len(unknown)} such)"
        raise refusal(Reason.UNKNOWN_TENSOR, problem)
    missing = sorted(specs.keys() - found)
    if missing:
        raise refusal(Reason.MISSING_TENSOR, f"{missing[0]!r} ({len(missing)} missing of {len(specs)})")


def _check_shape(spec: TensorSpec, tensor: TensorEntry) -> None:
    found, needed, axis = tensor.shape, spec.shape, spec.rank_axis
    if len(found) == len(needed) and found != needed:
        widths = [(one, other) for i, (one, other) in enumerate(zip(found, needed, strict=True)) if i != axis]
        if all(one == other for one, other in widths):
            ranks = f"{found[axis] / spec.per_rank:g}", needed[axis] // spec.per_rank
            problem = f"{shown(tensor.name)} has rank {ranks[0]}, the adapter {ranks[1]}"
            raise refusal(Reason.WRONG_RANK, problem)
    span = tensor.end - tensor.begin
    size_bytes = math.prod(needed) * ITEM_BYTES[tensor.dtype]
    if found != needed or span != size_bytes:
        problem = f"{shown(tensor.name)} is {list(found)[:8]} in {span} bytes"
        raise refusal(Reason.WRONG_SHAPE, f"{problem}, needed {list(needed)} in {size_bytes}")


def _check_places(specs: Sequence[TensorSpec], header: TensorHeader, dtype: str) -> None:
    if header.data_begin % ALIGNMENT:
        problem = f"the data begins at byte {header.data_begin}, no multiple of {ALIGNMENT}"
        raise refusal(Reason.MISPLACED, problem)
    places = place(((spec.name, dtype, spec.shape) for spec in specs), aligned=True)
    for needed, found in zip(places, header.tensors, strict=False):
        if needed != found:
            problem = f"{shown(found.name)} at byte {found.begin} of the data, where {needed.name} belongs"
            raise refusal(Reason.MISPLACED, f"{problem} (at {needed.begin})")
    if len(places) != len(header.tensors):
        raise refusal(Reason.MISPLACED, f"{len(header.tensors)} entries, needed {len(places)}")


def _check_values(
    file: BinaryIO, header: TensorHeader, dtype: str, sha256: "hashlib._Hash | None", *, is_bounded: bool
) -> None:
    """Read the data once: refuse NaN, infinity and too large values, and feed the hash if there is one."""
    view, exponent, largest = _EXPONENTS[dtype]
    refused = largest if is_bounded else exponent
    position = 0
    while chunk := file.read(_CHUNK_BYTES):
        if sha256 is not None:
            sha256.update(chunk)
        values = np.frombuffer(chunk, dtype=view)
        broken = (values & exponent) >= refused
        if broken.any():
            first = int(broken.argmax())
            at = position + first * ITEM_BYTES[dtype]
            tensor = next(entry for entry in header.tensors if entry.begin <= at < entry.end)
            if values[first] & exponent == exponent:
                raise refusal(Reason.NOT_FINITE, f"{shown(tensor.name)} holds NaN or infinity")
            problem = f"{shown(tensor.name)} holds a weight of {MAX_WEIGHT:.0f} or more"
            raise refusal(Reason.UPDATE_TOO_LARGE, problem)
        position += len(chunk)


def _check_updates(facts: BaseFacts, manifest: Manifest, file: TensorFile, max_ratio: float) -> None:
    check_updates(facts, _specs(facts, manifest), file, dtype=manifest.dtype, max_ratio=max_ratio)


def _check_pads(file: BinaryIO, header: TensorHeader) -> None:
    for entry in header.tensors:
        if entry.dtype == PAD_DTYPE:
            file.seek(header.data_begin + entry.begin)
            if any(file.read(entry.end - entry.begin)):
                raise refusal(Reason.MISPLACED, f"{shown(entry.name)} is not all zeros")


def _check_digest(manifest: Manifest, weights_sha256: str, size_bytes: int) -> None:
    proof = manifest.files[WEIGHTS_FILE]
    if (proof.sha256, proof.size_bytes) != (weights_sha256, size_bytes):
        problem = f"the weights are {weights_sha256} ({size_bytes} bytes), the manifest says {proof.sha256}"
        raise refusal(Reason.WRONG_DIGEST, problem)
    digest = adapter_digest(manifest)
    if manifest.digest != digest:
        raise refusal(Reason.WRONG_DIGEST, f"the content is {digest}, the manifest says {manifest.digest}")
