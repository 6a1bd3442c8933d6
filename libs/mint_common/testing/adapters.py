"""A made-up small base and adapters over it, for tests that need real bytes but no model."""

from collections.abc import Mapping

import numpy as np

from mint_common.adapters_format import AdapterFiles, BaseFacts, build_adapter, peft_name
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


def make_tensors(facts: BaseFacts, *, rank: int = 2, seed: int = 0) -> Mapping[str, np.ndarray]:
    """Return random tensors of an adapter over every module of a base."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module, (in_features, out_features) in facts.modules.items():
        tensors[peft_name(module, "A")] = rng.standard_normal((rank, in_features), dtype=np.float32)
        tensors[peft_name(module, "B")] = rng.standard_normal((out_features, rank), dtype=np.float32)
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
