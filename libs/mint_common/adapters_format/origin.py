"""Read the origin of an adapter folder from its files: written by MinT or by PEFT.

An origin is a plan: which tensor of the file each tensor of a shape is made from, by what factor, and which
are zeros. The shape is the adapter's own, or a larger one: a policy's rank and targets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_folder, check_header, check_targets, header_limit
from mint_common.adapters_format.config import read_config
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.manifest import read_manifest
from mint_common.adapters_format.names import (
    DENSE,
    FUSED,
    PACKED,
    canonical_name,
    split_packed_name,
    split_peft_name,
)
from mint_common.adapters_format.peft_config import EMBEDDINGS, PlainLora, read_peft_config
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.sites import Site, all_sites, site_names, targeted, targets_of
from mint_common.adapters_format.tensor_file import (
    ITEM_BYTES,
    PAD_DTYPE,
    TensorEntry,
    TensorHeader,
    read_header,
)
from mint_common.errors import NotFound
from mint_common.ids import Digest, PolicyId
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE

IMPORTED = PolicyId("imported")
"""The policy that an adapter without a manifest is said to come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterShape:
    """The rank and the targets of an adapter."""

    rank: int
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPart:
    """A tensor of the file, and what it is multiplied by; its rank may be below that of the shape."""

    entry: TensorEntry
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An adapter's shape and descent.

    ``specs`` are the tensors of the shape, ``parts`` those that the file has, by name: the others are zeros.
    ``scaling`` is alpha / rank as it was trained (1 in MinT's own files); B lacks it by ``parts``.
    ``notes`` are sentences about what was filled up.
    """

    layout: str
    rank: int
    targets: tuple[str, ...]
    dtype: str
    scaling: float
    policy_id: PolicyId
    step: int
    parent: Digest | None
    specs: tuple[TensorSpec, ...]
    parts: Mapping[str, TensorPart]
    notes: tuple[str, ...] = ()


def base_name_of(folder: Path) -> str:
    """Return the name that an adapter gives its base. Raises NotFound, AdapterInvalid."""
    if (folder / MANIFEST_FILE).is_file():
        return read_manifest((folder / MANIFEST_FILE).read_bytes()).base
    return str(read_config(_config(folder)).get("base_model_name_or_path"))


def read_origin(facts: BaseFacts, folder: Path, *, shape: AdapterShape | None = None) -> Origin:
    """Read and check an adapter folder. One with a manifest is checked as a whole, values included.

    The adapter is filled up to a ``shape`` that is larger than its own. Raises NotFound, AdapterInvalid.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(kind="adapter weights", name=str(folder / WEIGHTS_FILE))
    is_own = (folder / MANIFEST_FILE).is_file()
    origin = _read_own(facts, folder) if is_own else _read_peft(facts, folder)
    return origin if shape is None else _filled(facts, origin, shape)


def _read_own(facts: BaseFacts, folder: Path) -> Origin:
    manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
    check_folder(facts, manifest, folder)
    sites = targeted(all_sites(facts), manifest.targets)
    specs = tuple(tensor_specs(manifest.layout, sites, rank=manifest.rank))
    entries = {entry.name: entry for entry in _header(facts, folder).tensors}
    return Origin(
        layout=manifest.layout,
        rank=manifest.rank,
        targets=manifest.targets,
        dtype=manifest.dtype,
        scaling=1.0,
        policy_id=manifest.policy_id,
        step=manifest.step,
        parent=manifest.parent,
        specs=specs,
        parts={spec.name: TensorPart(entry=entries[spec.name], factor=1.0) for spec in specs},
    )


def _read_peft(facts: BaseFacts, folder: Path) -> Origin:
    lora = read_peft_config(_config(folder))
    header = _canonical(_header(facts, folder))
    entries = {entry.name: entry for entry in header.tensors if entry.dtype != PAD_DTYPE}
    _check_names(entries)
    layout = _layout(entries)
    targets = _targets(all_sites(facts), entries)
    check_targets(facts, targets)
    sites = targeted(all_sites(facts), targets)
    ranks = _ranks(lora, layout, entries)
    rank = max(ranks.values())
    _check_rank(facts, rank)
    dtype = _dtype(header)
    specs = tensor_specs(layout, sites, rank=rank)
    modules = {spec.name: _module_of(spec.name) for spec in specs}
    found = [
        _of_rank(spec, ranks.get(modules[spec.name], rank), rank)
        for spec in specs
        if modules[spec.name] in ranks or lora.requires(modules[spec.name])
    ]
    check_header(found, header, dtype=dtype, aligned=layout == PACKED)
    return Origin(
        layout=layout,
        rank=rank,
        targets=targets,
        dtype=dtype,
        scaling=lora.scaling,
        policy_id=IMPORTED,
        step=0,
        parent=None,
        specs=tuple(specs),
        parts={
            spec.name: TensorPart(
                entry=entries[spec.name],
                factor=lora.scaling_of(modules[spec.name]) if spec.half == "B" else 1.0,
            )
            for spec in found
        },
        notes=_notes(ranks.values(), rank=rank, found=len(found), needed=len(specs)),
    )


def _filled(facts: BaseFacts, origin: Origin, shape: AdapterShape) -> Origin:
    """Return the plan of the same update in a larger shape. Raises AdapterInvalid when it does not fit."""
    if origin.rank > shape.rank:
        raise refusal(Reason.WRONG_RANK, f"rank {origin.rank}, the policy has {shape.rank}")
    sites = targeted(all_sites(facts), shape.targets)
    names = {site.name for site in sites}
    acting = {site.name for spec in origin.specs if spec.name in origin.parts for site in spec.sites}
    if not acting <= names:
        problem = f"targets {', '.join(origin.targets)}, the policy has {', '.join(shape.targets)}"
        raise refusal(Reason.WRONG_TARGETS, problem)
    if (origin.rank, origin.targets) == (shape.rank, shape.targets):
        return origin
    specs = tuple(tensor_specs(origin.layout, sites, rank=shape.rank))
    notes = _notes([origin.rank], rank=shape.rank, found=len(origin.parts), needed=len(specs))
    return replace(origin, rank=shape.rank, targets=shape.targets, specs=specs, notes=notes or origin.notes)


def _notes(ranks: Iterable[int], *, rank: int, found: int, needed: int) -> tuple[str, ...]:
    notes = []
    if (least := min(ranks)) < rank:
        notes.append(f"Ranks from {least} were filled up to {rank} with zeros: the update is the same.")
    if found < needed:
        notes.append(f"{found // 2} of {needed // 2} modules have an update, the others got zeros.")
    return tuple(notes)


def _check_rank(facts: BaseFacts, rank: int) -> None:
    if rank > facts.max_rank:
        raise refusal(Reason.WRONG_RANK, f"rank {rank}, the limit of {facts.name} is {facts.max_rank}")


def _header(facts: BaseFacts, folder: Path) -> TensorHeader:
    path = folder / WEIGHTS_FILE
    with path.open("rb") as file:
        return read_header(file, size_bytes=path.stat().st_size, limit=header_limit(facts))


def _config(folder: Path) -> bytes:
    try:
        return (folder / CONFIG_FILE).read_bytes()
    except FileNotFoundError as error:
        raise NotFound(kind="adapter config", name=str(folder / CONFIG_FILE)) from error


def _canonical(header: TensorHeader) -> TensorHeader:
    names = [canonical_name(entry.name) for entry in header.tensors]
    if all(entry.name == name for entry, name in zip(header.tensors, names, strict=True)):
        return header
    tensors = tuple(replace(entry, name=name) for entry, name in zip(header.tensors, names, strict=True))
    if len({entry.name for entry in tensors}) != len(tensors):
        raise refusal(Reason.UNKNOWN_TENSOR, "a tensor is there twice, with PEFT's prefix and without")
    return replace(header, tensors=tensors)


def _check_names(names: Iterable[str]) -> None:
    """Refuse what other methods than plain LoRA add. Raises AdapterInvalid."""
    for name in names:
        parts = set(name.split("."))
        if "lora_magnitude_vector" in parts:
            raise refusal(Reason.DORA, f"{shown(name)} is a magnitude of DoRA")
        if parts & {*EMBEDDINGS, "lora_embedding_A", "lora_embedding_B"}:
            raise refusal(Reason.EMBEDDINGS, f"{shown(name)} changes embeddings, or the head over them")
        if name.endswith(".bias"):
            raise refusal(Reason.BIAS, f"{shown(name)} is a bias")


def _layout(names: Iterable[str]) -> str:
    for name in names:
        if split_packed_name(name):
            return PACKED
        module = (split_peft_name(name) or ("",))[0]
        if module.endswith((".experts", ".experts.base_layer")):
            return FUSED
    return DENSE


def _module_of(name: str) -> str:
    return (split_packed_name(name) or split_peft_name(name) or ("",))[0]


def _ranks(lora: PlainLora, layout: str, names: Iterable[str]) -> dict[str, int]:
    """Return the rank of every module that the file names."""
    if layout == FUSED and (lora.ranks or lora.alphas):
        problem = "rank_pattern or alpha_pattern beside target_parameters; needed one rank and one alpha"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    modules = dict.fromkeys(map(_module_of, names))  # each has two tensors, or many
    return {module: lora.rank_of(module) for module in modules if module}


def _of_rank(spec: TensorSpec, rank: int, largest: int) -> TensorSpec:
    if rank == largest:
        return spec
    shape = list(spec.shape)
    shape[spec.rank_axis] = rank * spec.per_rank
    return replace(spec, shape=tuple(shape))


def _targets(sites: Sequence[Site], names: Iterable[str]) -> tuple[str, ...]:
    by_name: dict[str, list[Site]] = {}
    for site in sites:
        for name in site_names(site):
            by_name[name] = [site]
        if site.count:
            fused = site.module if site.projection == "down_proj" else f"{site.module}.base_layer"
            by_name.setdefault(fused, []).append(site)
    chosen: dict[str, Site] = {}
    for name in names:
        # The check refuses an unknown name.
        for site in by_name.get(_module_of(name), ()):
            chosen[site.name] = site
    if not chosen:
        raise refusal(Reason.NO_MODULES, "no tensor belongs to a module of the base")
    return targets_of(sites, list(chosen.values()))


def _dtype(header: TensorHeader) -> str:
    dtype = next(entry.dtype for entry in header.tensors if entry.dtype != PAD_DTYPE)
    if dtype not in ITEM_BYTES:
        raise refusal(Reason.WRONG_DTYPE, f"{shown(dtype)}, allowed are {', '.join(ITEM_BYTES)}")
    return dtype
