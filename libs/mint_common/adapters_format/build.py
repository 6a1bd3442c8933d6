"""Turn trained tensors into the three files of an adapter."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_adapter, check_targets
from mint_common.adapters_format.config import write_config
from mint_common.adapters_format.layouts import tensor_specs
from mint_common.adapters_format.manifest import Manifest, new_manifest, proof_of, write_manifest
from mint_common.adapters_format.names import DENSE, PACKED, leaf_of, split_packed_name, split_peft_name
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.relayout import relaid
from mint_common.adapters_format.sites import Site, all_sites, site_names, targeted, targets_of
from mint_common.adapters_format.tensor_file import dtype_of, write_tensors
from mint_common.ids import Digest, PolicyId
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter in memory: file name -> bytes, and its manifest."""

    files: dict[str, bytes]
    digest: Digest
    manifest: Manifest


def build_adapter(
    *,
    facts: BaseFacts,
    policy_id: PolicyId,
    step: int,
    parent: Digest | None,
    rank: int,
    tensors: Mapping[str, np.ndarray],
    layout: str = PACKED,
) -> AdapterFiles:
    """Build and check an adapter from tensors under their PEFT names; those of experts may be packed.

    A packed name selects the layout `packed/1` unless ``layout`` names another; without experts only
    `dense/1` exists. B must already include the factor alpha / rank. Equal tensors give equal bytes. Raises
    AdapterInvalid.
    """
    sites = all_sites(facts)
    targets = _targets(sites, tensors)
    if not any(map(split_packed_name, tensors)):
        layout = DENSE
    elif layout != PACKED:
        rank, tensors = relaid(layout, targeted(sites, targets), rank=rank, tensors=tensors)
    dtype = dtype_of(next(iter(tensors.values())), next(iter(tensors)))
    if layout == PACKED:
        check_targets(facts, targets)
        order = [spec.name for spec in tensor_specs(layout, targeted(sites, targets), rank=rank)]
        # Missing and extra tensors are left as they are, so that the check names them.
        tensors = {name: tensors[name] for name in (*order, *tensors) if name in tensors}
    weights = write_tensors(tensors, packed=layout == PACKED)
    config = write_config(facts, rank=rank, layout=layout, targets=targets)
    manifest = new_manifest(
        facts,
        layout=layout,
        policy_id=policy_id,
        step=step,
        parent=parent,
        rank=rank,
        targets=targets,
        dtype=dtype,
        weights=proof_of(weights),
        config=config,
    )
    check_adapter(facts, manifest, weights)
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: config, MANIFEST_FILE: write_manifest(manifest)}
    return AdapterFiles(files=files, digest=manifest.digest, manifest=manifest)


def _targets(sites: Collection[Site], tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    by_name = {name: site for site in sites for name in site_names(site)}
    chosen: dict[str, Site] = {}
    foreign: set[str] = set()
    for name in tensors:
        parts = split_packed_name(name) or split_peft_name(name)
        if parts is None:
            raise refusal(Reason.UNKNOWN_TENSOR, f"{shown(name)} is not a LoRA name")
        site = by_name.get(parts[0])
        if site:
            chosen[site.name] = site
        else:
            foreign.add(leaf_of(parts[0]))
    if not chosen and not foreign:
        raise refusal(Reason.NO_MODULES, "no tensors")
    return tuple(sorted({*targets_of(sites, list(chosen.values())), *foreign}))
