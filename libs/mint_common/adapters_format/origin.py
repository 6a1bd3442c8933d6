"""Read the origin of an adapter folder from its files: written by MinT or by PEFT."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_folder, check_header, check_targets, header_limit
from mint_common.adapters_format.config import FREE_KEYS, is_neutral, read_config
from mint_common.adapters_format.layouts import TensorSpec, tensor_specs
from mint_common.adapters_format.manifest import read_manifest
from mint_common.adapters_format.names import DENSE, FUSED, PACKED, split_packed_name, split_peft_name
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.sites import Site, all_sites, site_names, targeted, targets_of
from mint_common.adapters_format.tensor_file import ITEM_BYTES, PAD_DTYPE, TensorHeader, read_header
from mint_common.errors import NotFound
from mint_common.ids import Digest, PolicyId
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE

IMPORTED = PolicyId("imported")
"""The policy that an adapter without a manifest is said to come from."""

_PEFT_KEYS = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "use_rslora",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An adapter's shape and descent; ``scaling`` is what B lacks (1 in MinT's own files)."""

    layout: str
    rank: int
    targets: tuple[str, ...]
    dtype: str
    scaling: float
    policy_id: PolicyId
    step: int
    parent: Digest | None
    specs: tuple[TensorSpec, ...]


def base_name_of(folder: Path) -> str:
    """Return the name that an adapter gives its base. Raises NotFound, AdapterInvalid."""
    if (folder / MANIFEST_FILE).is_file():
        return read_manifest((folder / MANIFEST_FILE).read_bytes()).base
    return str(_config(folder).get("base_model_name_or_path"))


def read_origin(facts: BaseFacts, folder: Path) -> Origin:
    """Read and check an adapter folder. One with a manifest is checked as a whole, values included.

    Raises NotFound, AdapterInvalid.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(kind="adapter weights", name=str(folder / WEIGHTS_FILE))
    if not (folder / MANIFEST_FILE).is_file():
        return _read_peft(facts, folder)
    manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
    check_folder(facts, manifest, folder)
    sites = targeted(all_sites(facts), manifest.targets)
    return Origin(
        layout=manifest.layout,
        rank=manifest.rank,
        targets=manifest.targets,
        dtype=manifest.dtype,
        scaling=1.0,
        policy_id=manifest.policy_id,
        step=manifest.step,
        parent=manifest.parent,
        specs=tuple(tensor_specs(manifest.layout, sites, rank=manifest.rank)),
    )


def _read_peft(facts: BaseFacts, folder: Path) -> Origin:
    rank, scaling = _rank_and_scaling(_config(folder))
    if rank > facts.max_rank:
        raise refusal(Reason.WRONG_RANK, f"rank {rank}, the limit of {facts.name} is {facts.max_rank}")
    path = folder / WEIGHTS_FILE
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size, limit=header_limit(facts))
    names = [entry.name for entry in header.tensors if entry.dtype != PAD_DTYPE]
    layout = _layout(names)
    targets = _targets(all_sites(facts), names)
    check_targets(facts, targets)
    dtype = _dtype(header)
    specs = tensor_specs(layout, targeted(all_sites(facts), targets), rank=rank)
    check_header(specs, header, dtype=dtype, aligned=layout == PACKED)
    return Origin(
        layout=layout,
        rank=rank,
        targets=targets,
        dtype=dtype,
        scaling=scaling,
        policy_id=IMPORTED,
        step=0,
        parent=None,
        specs=tuple(specs),
    )


def _config(folder: Path) -> Mapping[str, object]:
    try:
        return read_config((folder / CONFIG_FILE).read_bytes())
    except FileNotFoundError as error:
        raise NotFound(kind="adapter config", name=str(folder / CONFIG_FILE)) from error


def _rank_and_scaling(config: Mapping[str, object]) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or type(rank) is not int or type(alpha) not in (int, float):
        problem = f"needed peft_type LORA, a whole r and a number lora_alpha in {CONFIG_FILE}"
        raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    assert isinstance(alpha, int | float)
    if not 0 < rank < 2**31 or not math.isfinite(alpha):
        raise refusal(Reason.UNSUPPORTED_CONFIG, f"r is {rank}, lora_alpha {alpha}")
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            problem = f"{key} is set; one rank and one alpha for all modules is needed"
            raise refusal(Reason.UNSUPPORTED_CONFIG, problem)
    for key, value in config.items():
        if key not in _PEFT_KEYS | FREE_KEYS and not is_neutral(key, value):
            raise refusal(Reason.UNSUPPORTED_CONFIG, f"{shown(key)} is set, only plain LoRA is supported")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _layout(names: Iterable[str]) -> str:
    for name in names:
        if split_packed_name(name):
            return PACKED
        module = (split_peft_name(name) or ("",))[0]
        if module.endswith((".experts", ".experts.base_layer")):
            return FUSED
    return DENSE


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
        parts = split_packed_name(name) or split_peft_name(name)
        # The check refuses an unknown name.
        for site in by_name.get(parts[0], ()) if parts else ():
            chosen[site.name] = site
    if not chosen:
        raise refusal(Reason.NO_MODULES, "no tensor belongs to a module of the base")
    return targets_of(sites, list(chosen.values()))


def _dtype(header: TensorHeader) -> str:
    dtype = next(entry.dtype for entry in header.tensors if entry.dtype != PAD_DTYPE)
    if dtype not in ITEM_BYTES:
        raise refusal(Reason.WRONG_DTYPE, f"{shown(dtype)}, allowed are {', '.join(ITEM_BYTES)}")
    return dtype
