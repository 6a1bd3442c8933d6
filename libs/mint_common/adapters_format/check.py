"""Is an adapter what it says, and does it fit its base?

Invariant: for any bytes, a check returns or raises AdapterInvalid with one of the words of `Reason`.
Memory stays bounded by the header and one chunk, whatever the size of the weights.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.manifest import Manifest, adapter_digest
from mint_common.adapters_format.names import (
    CONFIG_FILE,
    LAYOUT,
    WEIGHTS_FILE,
    Half,
    leaf_of,
    peft_name,
    split_peft_name,
)
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.tensor_file import (
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    TensorEntry,
    TensorHeader,
    read_header,
)

MAX_CONFIG_BYTES = 1 << 20

_CHUNK_BYTES = 4 << 20
_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
}
"""dtype -> (integer view, exponent bits): all of them set means NaN or infinite."""

_FREE_CONFIG_KEYS = frozenset(
    {"auto_mapping", "inference_mode", "lora_dropout", "peft_version", "revision", "task_type"}
)
"""Keys of `adapter_config.json` that change nothing when an adapter is served."""


def check_adapter(facts: BaseFacts, manifest: Manifest, weights: bytes | Path) -> None:
    """Check the manifest against the base and the weights against both. Raises AdapterInvalid."""
    check_manifest(facts, manifest)
    if isinstance(weights, bytes):
        _check_weights(facts, manifest, io.BytesIO(weights), len(weights))
    else:
        with weights.open("rb") as file:
            _check_weights(facts, manifest, file, weights.stat().st_size)


def check_folder(facts: BaseFacts, manifest: Manifest, folder: Path) -> None:
    """Check all files of a staged adapter. Raises AdapterInvalid."""
    check_config(manifest, (folder / CONFIG_FILE).read_bytes())
    check_adapter(facts, manifest, folder / WEIGHTS_FILE)


def check_manifest(facts: BaseFacts, manifest: Manifest) -> None:
    """Check what needs no weights, so that nothing big is fetched in vain. Raises AdapterInvalid."""
    if manifest.layout != LAYOUT:
        raise refusal(Reason.UNSUPPORTED_LAYOUT, f"{shown(manifest.layout)}, needed {LAYOUT}")
    if (manifest.base, manifest.base_digest) != (facts.name, facts.digest):
        found = f"{shown(manifest.base)} {manifest.base_digest}"
        raise refusal(Reason.WRONG_BASE, f"trained over {found}, needed {facts.name} {facts.digest}")
    if not manifest.targets:
        raise refusal(Reason.NO_MODULES, "the manifest names no targets")
    foreign = sorted(set(manifest.targets) - set(facts.targets))
    if foreign:
        raise refusal(Reason.WRONG_TARGETS, f"{', '.join(foreign)} not in {', '.join(facts.targets)}")
    if manifest.rank > facts.max_rank:
        raise refusal(
            Reason.WRONG_RANK, f"rank {manifest.rank}, the limit of {facts.name} is {facts.max_rank}"
        )
    if manifest.dtype not in ITEM_BYTES:
        raise refusal(Reason.WRONG_DTYPE, f"{shown(manifest.dtype)}, allowed are {', '.join(ITEM_BYTES)}")
    _check_size(facts, manifest)


def check_config(manifest: Manifest, config: bytes) -> None:
    """Check that the PEFT config is plain LoRA at scaling 1 and says what the manifest says."""
    try:
        values = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise refusal(Reason.UNSUPPORTED_CONFIG, "adapter_config.json is not JSON") from error
    if not isinstance(values, dict):
        raise refusal(Reason.UNSUPPORTED_CONFIG, "adapter_config.json is not a JSON object")
    needed = {
        "peft_type": "LORA",
        "r": manifest.rank,
        "lora_alpha": manifest.rank,
        "target_modules": list(manifest.targets),
        "base_model_name_or_path": manifest.base,
    }
    for key, value in needed.items():
        if values.get(key) != value:
            problem = f"{key} is {_described(values.get(key))}, needed {value!r}"
            raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    for key, value in values.items():
        if key not in needed and key not in _FREE_CONFIG_KEYS and not _is_neutral(key, value):
            raise refusal(Reason.UNSUPPORTED_CONFIG, f"{shown(key)} is {_described(value)}")


def _is_neutral(key: str, value: object) -> bool:
    """Whether a PEFT option is off. Options that are not known yet are off when empty."""
    return not value or (key, value) in (("bias", "none"), ("init_lora_weights", True))


def _described(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else shown(str(value))


def _check_size(facts: BaseFacts, manifest: Manifest) -> None:
    sides = sum(sum(facts.modules[module]) for module in _modules(facts, manifest))
    limit = sides * manifest.rank * ITEM_BYTES[manifest.dtype] + MAX_HEADER_BYTES + 8
    found = manifest.files[WEIGHTS_FILE].size_bytes
    if found > limit:
        raise refusal(Reason.WRONG_SHAPE, f"{found} bytes of weights, at most {limit} fit the base")
    if manifest.files[CONFIG_FILE].size_bytes > MAX_CONFIG_BYTES:
        raise refusal(
            Reason.UNSUPPORTED_CONFIG, f"adapter_config.json has more than {MAX_CONFIG_BYTES} bytes"
        )


def _check_weights(facts: BaseFacts, manifest: Manifest, file: BinaryIO, size_bytes: int) -> None:
    header = read_header(file, size_bytes=size_bytes)
    _check_names(facts, manifest, header)
    for tensor in header.tensors:
        _check_dtype(tensor, manifest)
    for tensor in header.tensors:
        _check_shape(facts, manifest, tensor)
    file.seek(0)
    sha256 = hashlib.sha256(file.read(header.data_begin))
    _check_finite(file, header, manifest.dtype, sha256)
    _check_digest(manifest, sha256.hexdigest(), size_bytes)


def _modules(facts: BaseFacts, manifest: Manifest) -> list[str]:
    return [module for module in facts.modules if leaf_of(module) in manifest.targets]


def _check_names(facts: BaseFacts, manifest: Manifest, header: TensorHeader) -> None:
    halves: tuple[Half, Half] = ("A", "B")
    needed = {peft_name(module, half) for module in _modules(facts, manifest) for half in halves}
    found = {tensor.name for tensor in header.tensors}
    unknown = sorted(found - needed)
    if unknown:
        problem = f"{shown(unknown[0])} belongs to no target module ({len(unknown)} such)"
        raise refusal(Reason.UNKNOWN_TENSOR, problem)
    missing = sorted(needed - found)
    if missing:
        raise refusal(Reason.MISSING_TENSOR, f"{missing[0]!r} ({len(missing)} missing of {len(needed)})")


def _check_dtype(tensor: TensorEntry, manifest: Manifest) -> None:
    if tensor.dtype != manifest.dtype:
        problem = f"{shown(tensor.name)} is {shown(tensor.dtype)}, the manifest says {manifest.dtype}"
        raise refusal(Reason.WRONG_DTYPE, problem)


def _check_shape(facts: BaseFacts, manifest: Manifest, tensor: TensorEntry) -> None:
    parts = split_peft_name(tensor.name)
    assert parts is not None, "names are checked first"
    in_features, out_features = facts.modules[parts[0]]
    rank_axis, width = (0, in_features) if parts[1] == "A" else (1, out_features)
    rank = manifest.rank
    needed = (rank, width) if rank_axis == 0 else (width, rank)
    found = tensor.shape
    if len(found) == 2 and found != needed and found[1 - rank_axis] == width:
        problem = f"{shown(tensor.name)} has rank {found[rank_axis]}, the manifest says {rank}"
        raise refusal(Reason.WRONG_RANK, problem)
    size_bytes = rank * width * ITEM_BYTES[manifest.dtype]
    if found != needed or tensor.end - tensor.begin != size_bytes:
        span = tensor.end - tensor.begin
        problem = f"{shown(tensor.name)} is {list(found)[:8]} in {span} bytes"
        raise refusal(Reason.WRONG_SHAPE, f"{problem}, needed {list(needed)} in {size_bytes}")


def _check_finite(file: BinaryIO, header: TensorHeader, dtype: str, sha256: "hashlib._Hash") -> None:
    """Read the data once: look for NaN and infinity, and feed the hash."""
    view, exponent = _EXPONENTS[dtype]
    position = 0
    while chunk := file.read(_CHUNK_BYTES):
        sha256.update(chunk)
        broken = (np.frombuffer(chunk, dtype=view) & exponent) == exponent
        if broken.any():
            at = position + int(broken.argmax()) * ITEM_BYTES[dtype]
            tensor = next(entry for entry in header.tensors if entry.begin <= at < entry.end)
            raise refusal(Reason.NOT_FINITE, f"{shown(tensor.name)} holds NaN or infinity")
        position += len(chunk)


def _check_digest(manifest: Manifest, weights_sha256: str, size_bytes: int) -> None:
    proof = manifest.files[WEIGHTS_FILE]
    if (proof.sha256, proof.size_bytes) != (weights_sha256, size_bytes):
        problem = f"the weights are {weights_sha256} ({size_bytes} bytes), the manifest says {proof.sha256}"
        raise refusal(Reason.WRONG_DIGEST, problem)
    digest = adapter_digest(
        base_digest=manifest.base_digest,
        rank=manifest.rank,
        targets=manifest.targets,
        dtype=manifest.dtype,
        weights_sha256=weights_sha256,
    )
    if manifest.digest != digest:
        raise refusal(Reason.WRONG_DIGEST, f"the content is {digest}, the manifest says {manifest.digest}")
