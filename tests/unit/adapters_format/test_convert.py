"""Between PEFT's layouts and MinT's packed one: nothing is lost, and what would be is refused."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mint_common.adapters_format import (
    CONFIG_FILE,
    DENSE,
    FUSED,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    ExpertsFacts,
    Manifest,
    convert_adapter,
    packed_name,
)
from mint_common.adapters_format.convert import write_adapter
from mint_common.adapters_format.experts import scaled
from mint_common.adapters_format.origin import AdapterShape, read_origin
from mint_common.errors import AdapterInvalid, AlreadyExists, NotFound
from tests.testing.adapters import make_adapter, make_base_facts, make_tensors
from tests.unit.adapters_format.layouts import (
    FACTS,
    Tensors,
    fused,
    packed_tensors,
    per_expert,
    save_peft,
    shared_a,
)

DOWN_B = packed_name("model.layers.1.mlp.experts", "down_proj", "B")


def folded(tensors: Tensors, factor: float = 2.0) -> Tensors:
    return {name: array * factor if ".lora_B." in name else array for name, array in tensors.items()}


def assert_equal(found: Tensors, expected: Tensors) -> None:
    real = {name: array for name, array in found.items() if not name.startswith("pad.")}
    assert real.keys() == expected.keys()
    for name, array in real.items():
        assert np.array_equal(array, expected[name]), name


def convert(source: Path, layout: str) -> tuple[Manifest, Path]:
    target = source.with_name(f"{source.name}-{layout.partition('/')[0]}")
    return convert_adapter(FACTS, source, target, layout=layout), target


def test_per_expert_becomes_packed_with_alpha_folded_and_comes_back(tmp_path: Path) -> None:
    tensors = packed_tensors()
    source = save_peft(tmp_path / "peft", per_expert(tensors))
    manifest, packed = convert(source, PACKED)
    assert (manifest.layout, manifest.rank) == (PACKED, 2)
    assert manifest.targets == ("down_proj", "gate_proj", "q_proj", "up_proj")
    assert_equal(load_file(packed / WEIGHTS_FILE), folded(tensors))
    again, unpacked = convert(packed, DENSE)
    assert again.layout == DENSE
    assert_equal(load_file(unpacked / WEIGHTS_FILE), folded(per_expert(tensors)))
    assert convert(unpacked, PACKED)[0] == manifest, "packing is the same the second time"


def test_fused_becomes_packed_and_comes_back(tmp_path: Path) -> None:
    tensors = shared_a(packed_tensors())
    source = save_peft(tmp_path / "peft", fused(tensors), lora_alpha=2)
    manifest, packed = convert(source, PACKED)
    assert_equal(load_file(packed / WEIGHTS_FILE), tensors)
    again, unpacked = convert(packed, FUSED)
    assert (again.layout, again.targets) == (FUSED, manifest.targets)
    assert_equal(load_file(unpacked / WEIGHTS_FILE), fused(tensors))
    assert convert(unpacked, PACKED)[0] == manifest


def test_interleaved_experts_of_another_place_are_fused_row_by_row(tmp_path: Path) -> None:
    experts = {
        module.replace("mlp.", ""): replace(each, interleaved=True) for module, each in FACTS.experts.items()
    }
    facts = replace(FACTS, experts=experts)
    tensors = {
        name.replace(".mlp.experts", ".experts"): array for name, array in shared_a(packed_tensors()).items()
    }
    spelt = fused(tensors, facts)
    convert_adapter(
        facts, save_peft(tmp_path / "peft", spelt, lora_alpha=2), tmp_path / "packed", layout=PACKED
    )
    assert_equal(load_file(tmp_path / "packed" / WEIGHTS_FILE), tensors)
    convert_adapter(facts, tmp_path / "packed", tmp_path / "fused", layout=FUSED)
    assert_equal(load_file(tmp_path / "fused" / WEIGHTS_FILE), spelt)
    config = json.loads((tmp_path / "fused" / CONFIG_FILE).read_bytes())
    assert config["target_parameters"] == ["experts.down_proj", "experts.gate_up_proj"]


def test_equal_adapters_pack_to_equal_digests_whatever_they_came_as(tmp_path: Path) -> None:
    tensors = shared_a(packed_tensors())
    one, _ = convert(save_peft(tmp_path / "a", fused(tensors)), PACKED)
    other, _ = convert(save_peft(tmp_path / "b", per_expert(tensors)), PACKED)
    assert one == other


def test_an_a_for_gate_and_another_for_up_cannot_be_fused(tmp_path: Path) -> None:
    _, packed = convert(save_peft(tmp_path / "peft", per_expert(packed_tensors())), PACKED)
    with pytest.raises(AdapterInvalid, match="have an A each") as refused:
        convert(packed, FUSED)
    assert refused.value.reason == "unsupported_layout"
    assert {path.name for path in tmp_path.iterdir()} == {"peft", "peft-packed"}, "nothing is left behind"


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    tensors = packed_tensors(rank=4)
    source = save_peft(tmp_path / "peft", per_expert(tensors), rank=4, use_rslora=True)
    _, packed = convert(source, PACKED)
    assert_equal(load_file(packed / WEIGHTS_FILE), folded(tensors, 4.0))


def test_experts_alone_are_a_target_of_their_own(tmp_path: Path) -> None:
    only = {name: array for name, array in packed_tensors().items() if name.endswith(".packed")}
    manifest, packed = convert(save_peft(tmp_path / "peft", per_expert(only)), PACKED)
    assert manifest.targets == ("experts.down_proj", "experts.gate_proj", "experts.up_proj")
    assert_equal(load_file(packed / WEIGHTS_FILE), folded(only))
    assert read_origin(FACTS, packed).targets == manifest.targets


def test_down_alone_is_packed_and_fused(tmp_path: Path) -> None:
    wanted = {n: a for n, a in packed_tensors().items() if "experts.down_proj" in n or "q_proj" in n}
    without = {
        n: a for n, a in fused(shared_a(packed_tensors())).items() if "experts.lora" in n or "q_p" in n
    }
    manifest, packed = convert(save_peft(tmp_path / "peft", without), PACKED)
    assert manifest.targets == ("experts.down_proj", "q_proj")
    assert_equal(load_file(packed / WEIGHTS_FILE), folded(wanted))
    assert_equal(load_file(convert(packed, FUSED)[1] / WEIGHTS_FILE), folded(without))


def test_a_dense_adapter_has_but_one_layout(tmp_path: Path) -> None:
    facts = make_base_facts()
    files = make_adapter(facts).files
    (tmp_path / "a").mkdir()
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    manifest = convert_adapter(facts, tmp_path / "a", tmp_path / "b", layout=PACKED)
    assert manifest.layout == DENSE
    assert (tmp_path / "b" / MANIFEST_FILE).read_bytes() == files[MANIFEST_FILE]


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    source = save_peft(tmp_path / "peft", per_expert(packed_tensors()))
    convert_adapter(FACTS, source, tmp_path / "out", layout=PACKED, progress=lambda *both: told.append(both))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("saved", [fused, per_expert])
def test_memory_is_that_of_one_expert_where_each_has_its_own_tensors(
    tmp_path: Path, saved: Callable[[Tensors, BaseFacts], Tensors]
) -> None:
    experts, wide = 32, 32_768
    routed = ExpertsFacts(
        count=experts, projections={"down_proj": (wide, 64), "gate_proj": (64, wide), "up_proj": (64, wide)}
    )
    facts = replace(FACTS, experts={"model.layers.1.mlp.experts": routed}, modules={"q_proj": (6, 4)})
    tensors = shared_a(make_tensors(facts, rank=2))
    source = save_peft(tmp_path / "peft", saved(tensors, facts))
    halves_bytes = 3 * experts * wide * 2 * 4
    tracemalloc.start()
    convert_adapter(facts, source, tmp_path / "out", layout=DENSE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < halves_bytes / 2, "what is checked is read by the 4 MiB, with a few copies"
    assert_equal(load_file(tmp_path / "out" / WEIGHTS_FILE), folded(per_expert(tensors, facts)))


def test_an_existing_folder_is_never_replaced(tmp_path: Path) -> None:
    source = save_peft(tmp_path / "peft", per_expert(packed_tensors()))
    with pytest.raises(AlreadyExists):
        convert_adapter(FACTS, source, source, layout=PACKED)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"adapter_model\.safetensors"):
        convert(tmp_path / "peft", PACKED)


def updates(tensors: Tensors) -> Tensors:
    """Return B @ A of every module and expert."""
    halves = {name.partition(".lora_")[0]: name for name in tensors if ".lora_A." in name}
    return {
        module: tensors[name.replace(".lora_A.", ".lora_B.")] @ tensors[name]
        for module, name in halves.items()
    }


@pytest.mark.parametrize("spelling", ["per-expert", "fused", "packed"])
def test_a_larger_shape_has_the_same_update(tmp_path: Path, spelling: str) -> None:
    tensors = shared_a(packed_tensors())
    source = save_peft(tmp_path / "peft", fused(tensors) if spelling == "fused" else per_expert(tensors))
    if spelling == "packed":
        source = convert(source, PACKED)[1]
    shape = AdapterShape(rank=5, targets=tuple(sorted(FACTS.targets)))
    origin = read_origin(FACTS, source, shape=shape)
    write_adapter(FACTS, origin, source, tmp_path / "larger", layout=PACKED)
    larger = load_file(tmp_path / "larger" / WEIGHTS_FILE)
    assert larger[DOWN_B].shape[-1] == 5
    real = {name: each for name, each in larger.items() if not name.startswith("pad.")}
    for module, update in updates(real).items():
        np.testing.assert_allclose(update, updates(folded(tensors))[module], rtol=1e-5, atol=1e-6)


def test_experts_that_a_policy_has_besides_get_zeros(tmp_path: Path) -> None:
    only = {name: each for name, each in packed_tensors().items() if "q_proj" in name}
    source = save_peft(tmp_path / "peft", only)
    shape = AdapterShape(rank=2, targets=("down_proj", "gate_proj", "q_proj", "up_proj"))
    origin = read_origin(FACTS, source, shape=shape)
    assert origin.notes == ("12 of 114 modules have an update, the others got zeros.",)
    manifest = write_adapter(FACTS, origin, source, tmp_path / "larger", layout=PACKED)
    assert (manifest.layout, manifest.targets) == (PACKED, shape.targets)
    larger = load_file(tmp_path / "larger" / WEIGHTS_FILE)
    assert not any(each.any() for name, each in larger.items() if "q_proj" not in name)


def test_experts_have_ranks_and_alphas_of_their_own(tmp_path: Path) -> None:
    """One expert of a projection at rank 1, and another alpha for a layer's up_proj."""
    tensors = dict(per_expert(packed_tensors()))
    low = "model.layers.3.mlp.experts.1.down_proj"
    for half, cut in (("A", np.s_[:1]), ("B", np.s_[:, :1])):
        name = f"base_model.model.{low}.lora_{half}.weight"
        tensors[name] = np.ascontiguousarray(tensors[name][cut])
    alphas = {r"layers\.4\..*up_proj": 6}
    source = save_peft(tmp_path / "peft", tensors, rank_pattern={low: 1}, alpha_pattern=alphas)
    convert_adapter(FACTS, source, tmp_path / "packed", layout=PACKED)
    found = updates(load_file(tmp_path / "packed" / WEIGHTS_FILE))
    for module, update in updates(tensors).items():
        plain = module.removeprefix("base_model.model.")
        scale = 4.0 if plain == low else 3.0 if "layers.4" in plain and "up_proj" in plain else 2.0
        name, _dot, leaf = module.rpartition(".")
        expert = name.rpartition(".")[2]
        whole = (
            found[f"{name.rpartition('.')[0]}.{leaf}"][int(expert)] if expert.isdecimal() else found[module]
        )
        np.testing.assert_allclose(whole, update * scale, rtol=1e-5, atol=1e-6)


BAD = per_expert(packed_tensors())
FIRST = next(name for name in BAD if ".experts.1.up_proj.lora_A" in name)


@pytest.mark.parametrize(
    ("reason", "tensors", "config"),
    [
        ("missing_tensor", {n: a for n, a in BAD.items() if n != FIRST}, {}),
        ("unknown_tensor", {**BAD, FIRST.replace("experts.1", "experts.3"): BAD[FIRST]}, {}),
        ("unknown_tensor", {**BAD, FIRST.replace("up_proj", "side_proj"): BAD[FIRST]}, {}),
        ("wrong_rank", {**BAD, FIRST: np.zeros((3, 6), np.float32)}, {}),
        ("wrong_shape", {**BAD, FIRST: np.zeros((2, 7), np.float32)}, {}),
        ("wrong_dtype", {**BAD, FIRST: BAD[FIRST].astype(np.float16)}, {}),
        ("not_finite", {**BAD, FIRST: BAD[FIRST] * np.inf}, {}),
        ("no_modules", {"base_model.model.other.lora_A.weight": BAD[FIRST]}, {}),
        ("wrong_rank", BAD, {"r": 16}),
        ("unsupported_config", BAD, {"r": "2"}),
        ("other_method", BAD, {"peft_type": "LOHA"}),
        ("dora", BAD, {"use_dora": True}),
        ("wrong_rank", BAD, {"rank_pattern": {"q_proj": 4}}),
        ("unsupported_config", BAD, {"lora_alpha": float("inf")}),
    ],
)
def test_a_broken_peft_adapter_is_refused_and_leaves_nothing(
    tmp_path: Path,
    reason: str,
    tensors: Tensors,
    config: dict[str, Any],  # what a config may hold
) -> None:
    with np.errstate(invalid="ignore"):
        source = save_peft(tmp_path / "peft", tensors, **config)
        with pytest.raises(AdapterInvalid) as refused:
            convert(source, PACKED)
    assert refused.value.reason == reason
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


@given(
    values=st.lists(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), min_size=1),
    factor=st.sampled_from([1.0, 0.5, 2.0, 1.25, 3.0, 0.1]),
)
def test_scaling_of_bf16_rounds_to_the_nearest(values: list[float], factor: float) -> None:
    bits = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    found = (scaled(bits, factor).astype(np.uint32) << 16).view(np.float32)
    exact = wide * np.float32(factor)
    assert np.all(np.abs(found - exact) <= np.abs(exact) * 2.0**-8 + 2.0**-133)
    if factor in (1.0, 0.5, 2.0) and np.all((exact == 0) | (np.abs(exact) > 2.0**-120)):
        assert np.array_equal(found, exact), "a power of two loses nothing"
