"""Turn trained tensors into the three files of an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.check import check_adapter
from mint_common.adapters_format.manifest import (
    Manifest,
    adapter_digest,
    canonical_json,
    proof_of,
    write_manifest,
)
from mint_common.adapters_format.names import (
    CONFIG_FILE,
    LAYOUT,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    leaf_of,
    split_peft_name,
)
from mint_common.adapters_format.refusal import Reason, refusal, shown
from mint_common.adapters_format.tensor_file import dtype_of, write_tensors
from mint_common.ids import Digest, PolicyId


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter in memory: file name -> bytes, and what its manifest says."""

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
) -> AdapterFiles:
    """Build and check an adapter from tensors under their PEFT names (see `names.peft_name`).

    B must carry the factor alpha / rank already. Equal tensors give equal bytes. Raises AdapterInvalid.
    """
    targets = _targets(tensors)
    dtype = dtype_of(next(iter(tensors.values())), next(iter(tensors)))
    weights = write_tensors(tensors)
    config = _config(facts, rank, targets)
    proof = proof_of(weights)
    digest = adapter_digest(
        base_digest=facts.digest, rank=rank, targets=targets, dtype=dtype, weights_sha256=proof.sha256
    )
    manifest = Manifest(
        layout=LAYOUT,
        digest=digest,
        base=facts.name,
        base_digest=facts.digest,
        policy_id=policy_id,
        step=step,
        parent=parent,
        rank=rank,
        targets=targets,
        dtype=dtype,
        files={WEIGHTS_FILE: proof, CONFIG_FILE: proof_of(config)},
    )
    check_adapter(facts, manifest, weights)
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: config, MANIFEST_FILE: write_manifest(manifest)}
    return AdapterFiles(files=files, digest=digest, manifest=manifest)


def _targets(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    leaves: set[str] = set()
    for name in tensors:
        parts = split_peft_name(name)
        if parts is None:
            raise refusal(Reason.UNKNOWN_TENSOR, f"{shown(name)} is not a PEFT LoRA name")
        leaves.add(leaf_of(parts[0]))
    if not leaves:
        raise refusal(Reason.NO_MODULES, "no tensors")
    return tuple(sorted(leaves))


def _config(facts: BaseFacts, rank: int, targets: tuple[str, ...]) -> bytes:
    """Return what PEFT and vLLM need to read the weights, every optional feature off."""
    return canonical_json(
        {
            "base_model_name_or_path": facts.name,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": list(targets),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }
    )
