"""Building adapters: reproducible, readable by others, and named by content."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    BaseFacts,
    build_adapter,
    check_folder,
    peft_name,
    read_manifest,
    write_manifest,
)
from mint_common.errors import AdapterInvalid
from mint_common.ids import PolicyId, sha256_digest
from tests.testing.adapters import make_adapter, make_base_facts, make_tensors

FACTS = make_base_facts()
GOLDEN = Path("tests/golden/adapters")
GOLDEN_DIGEST = "sha256:eeac3db60aec1a6969e594be71bedf2903ad7679d120edb79ad88900d0c32c0d"


def test_golden_adapter_keeps_its_digest_and_its_bytes() -> None:
    golden = GOLDEN / "pebble-r2"
    facts = msgspec.json.decode((golden / "mint_base.json").read_bytes(), type=BaseFacts)
    manifest = read_manifest((golden / MANIFEST_FILE).read_bytes())
    check_folder(facts, manifest, golden)
    assert manifest.digest == GOLDEN_DIGEST
    rebuilt = build_adapter(
        facts=facts,
        policy_id=manifest.policy_id,
        step=manifest.step,
        parent=manifest.parent,
        rank=manifest.rank,
        tensors=load((golden / WEIGHTS_FILE).read_bytes()),
    )
    assert rebuilt.files == {
        name: (golden / name).read_bytes() for name in (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE)
    }


def test_safetensors_reads_what_was_built() -> None:
    tensors = make_tensors(FACTS)
    read = load(make_adapter(FACTS).files[WEIGHTS_FILE])
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_config_folds_the_scaling() -> None:
    config = json.loads(make_adapter(FACTS, rank=4).files[CONFIG_FILE])
    assert config["r"] == config["lora_alpha"] == 4
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["base_model_name_or_path"] == FACTS.name


def test_digest_names_the_content_whoever_exports_it() -> None:
    one = make_adapter(FACTS, policy_id="pol_a", step=1)
    same = make_adapter(FACTS, policy_id="pol_b", step=9, parent=sha256_digest(b"p"))
    assert one.digest == same.digest
    assert one.digest != make_adapter(FACTS, seed=1).digest
    assert one.digest != make_adapter(make_base_facts(name="boulder")).digest


def test_tensor_order_and_memory_layout_do_not_matter() -> None:
    tensors = make_tensors(FACTS)
    turned = {name: np.asfortranarray(tensors[name]).astype(">f4") for name in reversed(list(tensors))}
    built = build_adapter(
        facts=FACTS, policy_id=PolicyId("pol_made"), step=1, parent=None, rank=2, tensors=turned
    )
    assert built == make_adapter(FACTS)


@pytest.mark.parametrize(
    ("reason", "tensors"),
    [
        ("no_modules", {}),
        ("unknown_tensor", {"model.layers.0.mlp.down_proj.weight": np.zeros((2, 8), np.float32)}),
        ("wrong_targets", {peft_name("lm_head", "A"): np.zeros((2, 8), np.float32)}),
        ("wrong_dtype", {name: array.astype(np.float64) for name, array in make_tensors(FACTS).items()}),
        ("wrong_rank", make_tensors(FACTS, rank=4)),
        ("not_finite", {name: array * np.nan for name, array in make_tensors(FACTS).items()}),
    ],
)
def test_what_would_be_refused_is_not_built(reason: str, tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        build_adapter(
            facts=FACTS, policy_id=PolicyId("pol_made"), step=1, parent=None, rank=2, tensors=tensors
        )
    assert refused.value.reason == reason


@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        read_manifest(data)
    assert refused.value.reason == "bad_manifest"


MANIFEST = json.loads(make_adapter(FACTS).files[MANIFEST_FILE])


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:" + "A" * 64},
        {"base_digest": "md5:0"},
        {"parent": "../.."},
        {"rank": 0},
        {"rank": 2**40},
        {"rank": "2"},
        {"step": -1},
        {"targets": ["q_proj", "down_proj"]},
        {"targets": ["q_proj", "q_proj"]},
        {"targets": ["../q_proj"]},
        {"files": {}},
        {"files": {**MANIFEST["files"], "../../etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}},
        {"files": {key: {"sha256": "0", "size_bytes": 1} for key in MANIFEST["files"]}},
        {"files": {key: {"sha256": "0" * 64, "size_bytes": -1} for key in MANIFEST["files"]}},
    ],
)
def test_manifest_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        read_manifest(json.dumps({**MANIFEST, **change}).encode())
    assert refused.value.reason == "bad_manifest"


def test_manifest_survives_a_round_trip() -> None:
    manifest = make_adapter(FACTS, parent=sha256_digest(b"p")).manifest
    assert read_manifest(write_manifest(manifest)) == manifest
    assert read_manifest(json.dumps(MANIFEST, indent=2).encode()) == read_manifest(
        json.dumps(MANIFEST).encode()
    )
    with pytest.raises(AdapterInvalid):
        read_manifest(b" " * (1 << 20) + write_manifest(manifest))
