"""A made-up small base and adapters over it, for tests that need real bytes but no model."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mint_common.adapters_format import (
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    ExpertsFacts,
    Manifest,
    build_adapter,
    packed_name,
    peft_name,
)
from mint_common.adapters_format.manifest import adapter_digest, proof_of
from mint_common.ids import BaseName, Digest, PolicyId, sha256_digest


def make_base_facts(*, name: str = "pebble", max_rank: int = 8) -> BaseFacts:
    """Return a base with two layers of two linear modules; its digest is a function of its name."""
    modules = {}
    for layer in range(2):
        modules[f"model.layers.{layer}.mlp.down_proj"] = (8, 6)
        modules[f"model.layers.{layer}.self_attn.q_proj"] = (6, 4)
    return BaseFacts(
        name=BaseName(name),
        digest=sha256_digest(name.encode()),
        architecture="LlamaForCausalLM",
        vocab_size=32,
        max_context=64,
        targets=("down_proj", "q_proj"),
        modules=modules,
        max_rank=max_rank,
    )


def make_moe_facts() -> BaseFacts:
    """Return a base of twelve layers: one of dense modules, the rest with experts; odd widths on purpose."""
    modules = {f"model.layers.{layer}.self_attn.q_proj": (6, 4) for layer in range(12)}
    modules |= {f"model.layers.0.mlp.{leaf}_proj": (6, 10) for leaf in ("gate", "up")}
    modules["model.layers.0.mlp.down_proj"] = (10, 6)
    routed = {
        f"model.layers.{layer}.mlp.experts": ExpertsFacts(
            count=3, projections={"down_proj": (5, 6), "gate_proj": (6, 5), "up_proj": (6, 5)}
        )
        for layer in range(1, 12)
    }
    return BaseFacts(
        name=BaseName("gravel"),
        digest=sha256_digest(b"gravel"),
        architecture="Qwen3MoeForCausalLM",
        vocab_size=32,
        max_context=64,
        targets=("down_proj", "gate_proj", "q_proj", "up_proj"),
        modules=modules,
        max_rank=8,
        experts=routed,
    )


def make_tensors(facts: BaseFacts, *, rank: int = 2, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Return random tensors of an adapter over every module of a base, those of experts packed."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module, (in_features, out_features) in facts.modules.items():
        tensors[peft_name(module, "A")] = rng.standard_normal((rank, in_features), dtype=np.float32)
        tensors[peft_name(module, "B")] = rng.standard_normal((out_features, rank), dtype=np.float32)
    for module, layer in facts.experts.items():
        for leaf, (width_in, width_out) in layer.projections.items():
            shape_a, shape_b = (layer.count, rank, width_in), (layer.count, width_out, rank)
            tensors[packed_name(module, leaf, "A")] = rng.standard_normal(shape_a, dtype=np.float32)
            tensors[packed_name(module, leaf, "B")] = rng.standard_normal(shape_b, dtype=np.float32)
    return tensors


def make_adapter(
    facts: BaseFacts,
    *,
    policy_id: str = "pol_made",
    step: int = 1,
    parent: Digest | None = None,
    rank: int = 2,
    seed: int = 0,
) -> AdapterFiles:
    """Return an adapter with random weights; equal seeds give equal bytes."""
    return build_adapter(
        facts=facts,
        policy_id=PolicyId(policy_id),
        step=step,
        parent=parent,
        rank=rank,
        tensors=make_tensors(facts, rank=rank, seed=seed),
    )


def vouched(weights: bytes, manifest: Manifest) -> Manifest:
    """Return a correct manifest for other weights, so that only their content can be wrong."""
    told = replace(manifest, files={**manifest.files, WEIGHTS_FILE: proof_of(weights)})
    return replace(told, digest=adapter_digest(told))


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed archive of named files, as a user uploads an adapter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
