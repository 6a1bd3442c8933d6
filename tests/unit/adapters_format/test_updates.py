"""What an adapter adds to a module is bounded by the base's own weight there, and every weight by itself."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mint_common.adapters_format import (
    DENSE,
    FUSED,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    build_adapter,
    check_adapter,
    check_folder,
    packed_name,
    peft_name,
)
from mint_common.adapters_format.updates import MAX_WEIGHT
from mint_common.errors import AdapterInvalid
from mint_common.ids import PolicyId
from tests.testing.adapters import make_base_facts, make_moe_facts, make_tensors

DENSE_BASE, MOE_BASE = make_base_facts(), make_moe_facts()
Tensors = Mapping[str, np.ndarray]


def refusal_of(facts: BaseFacts, tensors: Tensors, max_ratio: float, *, layout: str = PACKED) -> str | None:
    built = build_adapter(
        facts=facts,
        policy_id=PolicyId("pol_made"),
        step=1,
        parent=None,
        rank=2,
        tensors=tensors,
        layout=layout,
    )
    try:
        check_adapter(facts, built.manifest, built.files[WEIGHTS_FILE], max_ratio=max_ratio)
    except AdapterInvalid as error:
        return str(error)
    return None


def largest_ratio(facts: BaseFacts, tensors: Tensors) -> float:
    """Return what is checked, computed the long way: |B A| over the base's, of each module and expert."""
    ratios = []
    for module, (width_in, width_out) in facts.modules.items():
        update = tensors[peft_name(module, "B")].astype(np.float64) @ tensors[peft_name(module, "A")]
        base = facts.norms.get(module) or math.sqrt(width_in * width_out)
        ratios.append(np.linalg.norm(update) / base)
    for module, layer in facts.experts.items():
        for leaf, (width_in, width_out) in layer.projections.items():
            a, b = tensors[packed_name(module, leaf, "A")], tensors[packed_name(module, leaf, "B")]
            whole = facts.norms.get(f"{module}.{leaf}") or math.sqrt(layer.count * width_in * width_out)
            updates = np.linalg.norm(b.astype(np.float64) @ a, axis=(-1, -2))
            ratios.append(float(np.max(updates)) / (whole / math.sqrt(layer.count)))
    return max(ratios)


@given(
    is_moe=st.booleans(),
    seed=st.integers(0, 1000),
    scale=st.floats(-4, 4),
    loud=st.integers(0, 200),
    norm=st.one_of(st.none(), st.floats(-3, 3)),
    margin=st.sampled_from([0.5, 0.99, 1.01, 2.0]),
)
def test_an_update_is_taken_exactly_while_no_module_is_beyond_the_ratio(
    *, is_moe: bool, seed: int, scale: float, loud: int, norm: float | None, margin: float
) -> None:
    facts = MOE_BASE if is_moe else DENSE_BASE
    if norm is not None:
        experts = [
            f"{module}.{leaf}" for module, layer in facts.experts.items() for leaf in layer.projections
        ]
        facts = replace(facts, norms=dict.fromkeys([*facts.modules, *experts], 10.0**norm))
    tensors = {
        name: array * np.float32(10.0**scale) for name, array in make_tensors(facts, seed=seed).items()
    }
    name = sorted(tensors)[loud % len(tensors)]
    tensors[name] = tensors[name] * np.float32(3)
    assume(all(np.abs(array).max() < MAX_WEIGHT for array in tensors.values()))  # else refused for that
    refused = refusal_of(facts, tensors, margin * largest_ratio(facts, tensors))
    assert (refused is None) == (margin > 1)


@pytest.mark.parametrize("layout", [DENSE, FUSED, PACKED])
def test_one_expert_beyond_the_ratio_is_found_in_every_layout(layout: str) -> None:
    tensors = {name: array.copy() for name, array in make_tensors(MOE_BASE).items()}
    for leaf in ("gate_proj", "up_proj"):  # one A for both: it can be fused
        name = packed_name("model.layers.3.mlp.experts", leaf, "A")
        tensors[name] = tensors[packed_name("model.layers.3.mlp.experts", "gate_proj", "A")]
    tensors[packed_name("model.layers.3.mlp.experts", "up_proj", "B")][1] *= 1000
    refused = refusal_of(MOE_BASE, tensors, 100.0, layout=layout)
    assert refused is not None
    assert "(update_too_large)" in refused
    assert "an expert of model.layers.3.mlp.experts.up_proj" in refused
    assert refusal_of(MOE_BASE, make_tensors(MOE_BASE), 100.0, layout=layout) is None


@pytest.mark.parametrize("value", [65536.0, -65536.0, 3e38, -3.4e38])
def test_one_weight_beyond_all_bounds_is_refused_whatever_the_ratio(value: float) -> None:
    tensors = {name: array.copy() for name, array in make_tensors(DENSE_BASE).items()}
    name = peft_name("model.layers.1.self_attn.q_proj", "B")
    tensors[name][-1, -1] = value
    refused = refusal_of(DENSE_BASE, tensors, 1e30)
    assert refused is not None
    assert "(update_too_large)" in refused
    assert name in refused
    assert refusal_of(DENSE_BASE, tensors, math.inf) is None, "without a ratio nothing is bounded"


def test_the_largest_weights_that_are_taken_overflow_nothing() -> None:
    tensors = {name: np.full_like(array, 65535.0) for name, array in make_tensors(MOE_BASE).items()}
    with np.errstate(all="raise"):
        refused = refusal_of(MOE_BASE, tensors, 100.0)
    assert refused is not None
    assert "inf" not in refused
    assert "nan" not in refused


def test_a_folder_is_checked_as_its_bytes_are(tmp_path: Path) -> None:
    built = build_adapter(
        facts=DENSE_BASE,
        policy_id=PolicyId("pol_made"),
        step=1,
        parent=None,
        rank=2,
        tensors={name: 100 * array for name, array in make_tensors(DENSE_BASE).items()},
    )
    for name, data in built.files.items():
        (tmp_path / name).write_bytes(data)
    check_folder(DENSE_BASE, built.manifest, tmp_path)
    with pytest.raises(AdapterInvalid) as refused:
        check_folder(DENSE_BASE, built.manifest, tmp_path, max_ratio=100.0)
    assert refused.value.reason == "update_too_large"
