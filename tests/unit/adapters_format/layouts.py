"""Adapters over a base with experts, as PEFT saves them and as MinT keeps them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, BaseFacts, packed_name, peft_name
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.tensor_file import write_tensors
from tests.testing.adapters import make_moe_facts, make_tensors

FACTS = make_moe_facts()
Tensors = Mapping[str, np.ndarray]


def shared_a(tensors: Tensors) -> Tensors:
    """Return packed tensors in which up_proj has the A of gate_proj, as a fused adapter needs."""
    return {
        name: tensors[name.replace("up_proj.lora_A.packed", "gate_proj.lora_A.packed")] for name in tensors
    }


def per_expert(tensors: Tensors, facts: BaseFacts = FACTS) -> Tensors:
    """Return packed tensors as PEFT's per-expert ones: spelt out here, apart from the code under test."""
    result = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    for module, layer in facts.experts.items():
        for leaf in layer.projections:
            for half in HALVES:
                for expert in range(layer.count):
                    name = peft_name(f"{module}.{expert}.{leaf}", half)
                    result[name] = tensors[packed_name(module, leaf, half)][expert]
    return result


def fused(tensors: Tensors, facts: BaseFacts = FACTS) -> Tensors:
    """Return packed tensors as PEFT's `target_parameters` ones; gate and up must share A."""
    result = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    for module in facts.experts:
        gate_b = tensors[packed_name(module, "gate_proj", "B")]
        up_b = tensors[packed_name(module, "up_proj", "B")]
        pairs = {
            f"{module}.base_layer": (
                tensors[packed_name(module, "gate_proj", "A")],
                np.stack([gate_b, up_b], axis=2).reshape(len(gate_b), -1, gate_b.shape[2])
                if facts.experts[module].interleaved
                else np.concatenate([gate_b, up_b], axis=1),
            ),
            module: tuple(tensors[packed_name(module, "down_proj", half)] for half in HALVES),
        }
        for name, (a, b) in pairs.items():
            # A: expert-major rows. B: columns rank-major, the expert fastest.
            result[peft_name(name, "A")] = np.concatenate(list(a), axis=0)
            columns = [b[expert][:, rank] for rank in range(b.shape[2]) for expert in range(b.shape[0])]
            result[peft_name(name, "B")] = np.stack(columns, axis=1)
    return result


def save_peft(folder: Path, tensors: Tensors, *, rank: int = 2, **config: object) -> Path:
    """Write a folder as PEFT does: no manifest, alpha not folded."""
    folder.mkdir(parents=True)
    (folder / WEIGHTS_FILE).write_bytes(write_tensors(tensors))
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": FACTS.name,
        "megatron_core": "megatron.core",
        "bias": "none",
        "init_lora_weights": True,
        **config,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    return folder


def packed_tensors(*, rank: int = 2, seed: int = 0) -> Tensors:
    """Return packed tensors over every module and every expert."""
    return make_tensors(FACTS, rank=rank, seed=seed)
