"""The layout packed/1: aligned, in load order, and every mutation of a good file is refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from mint_common.adapters_format import (
    CONFIG_FILE,
    DENSE,
    FUSED,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    Manifest,
    build_adapter,
    check_adapter,
    check_folder,
    packed_name,
    read_manifest,
)
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.errors import AdapterInvalid
from mint_common.ids import PolicyId
from tests.testing.adapters import make_adapter, vouched
from tests.unit.adapters_format.layouts import FACTS, Tensors, fused, packed_tensors, per_expert, shared_a

GOOD = make_adapter(FACTS)
WEIGHTS = GOOD.files[WEIGHTS_FILE]
GOLDEN = Path("tests/golden/adapters")
GOLDEN_DIGESTS = {
    "gravel-r2-packed": "sha256:d566778b16da3562ae5f635849a2300da90faabf4496836a1773492d2c43653f",
    "gravel-r2-per-expert": "sha256:7c98c2c4d3a7f904001fd4129b05bae1960c93559890660d6ce58710bea30700",
    "gravel-r2-fused": "sha256:1a6957dad2782a38470e72b78ee067a77cd91f5043196b9400324ac5de7a543d",
}
UP = packed_name("model.layers.2.mlp.experts", "up_proj", "A")


def reason_of(weights: bytes, manifest: Manifest | None = None) -> str | None:
    try:
        check_adapter(FACTS, manifest or vouched(weights, GOOD.manifest), weights)
    except AdapterInvalid as error:
        return str(error.reason)
    return None


def header_of(weights: bytes) -> tuple[dict[str, dict[str, list[int]]], int]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), 8 + length


def test_tensors_lie_in_load_order_at_multiples_of_64_bytes() -> None:
    header, data_begin = header_of(WEIGHTS)
    names = [name for name in header if not name.startswith("pad.")]
    layers = [int(name.split(".layers.")[1].split(".")[0]) for name in names]
    assert layers == sorted(layers), "layer 10 comes after layer 2"
    second = [name.split(".layers.2.")[1] for name in names if ".layers.2." in name]
    assert second == [
        "self_attn.q_proj.lora_A.weight",
        "self_attn.q_proj.lora_B.weight",
        *(f"mlp.experts.{p}_proj.lora_{half}.packed" for p in ("gate", "up", "down") for half in "AB"),
    ]
    assert all((data_begin + header[name]["data_offsets"][0]) % 64 == 0 for name in names)
    assert any(name.startswith("pad.") for name in header), "these widths need pads"


def test_safetensors_reads_what_was_packed() -> None:
    read = load(WEIGHTS)
    for name, array in packed_tensors().items():
        assert np.array_equal(read[name], array)


def test_order_of_building_does_not_matter() -> None:
    turned = dict(reversed(list(packed_tensors().items())))
    again = build_adapter(
        facts=FACTS, policy_id=PolicyId("pol_made"), step=1, parent=None, rank=2, tensors=turned
    )
    assert again == GOOD
    assert again.manifest.layout == PACKED


@pytest.mark.parametrize("name", GOLDEN_DIGESTS)
def test_golden_adapters_keep_their_digests(name: str) -> None:
    folder = GOLDEN / name
    facts = msgspec.json.decode((folder / "mint_base.json").read_bytes(), type=BaseFacts)
    manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
    check_folder(facts, manifest, folder)
    assert manifest.digest == GOLDEN_DIGESTS[name]


def test_the_three_golden_adapters_are_one() -> None:
    packed, split, merged = (load((GOLDEN / name / WEIGHTS_FILE).read_bytes()) for name in GOLDEN_DIGESTS)
    real = {name: array for name, array in packed.items() if not name.startswith("pad.")}
    for found, expected in ((split, per_expert(real)), (merged, fused(real))):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)


def with_tensors(changes: dict[str, np.ndarray | None]) -> bytes:
    tensors = {name: changes.get(name, array) for name, array in load(WEIGHTS).items() if name[:4] != "pad."}
    order = [name for name in header_of(WEIGHTS)[0] if name in tensors]
    kept = {name: tensors[name] for name in order if tensors[name] is not None}
    added = {name: array for name, array in changes.items() if array is not None and name not in kept}
    return write_tensors({**kept, **added}, packed=True)  # type: ignore[dict-item]  # None is filtered out


def with_header(change: Callable[[dict[str, dict[str, list[int]]]], object]) -> bytes:
    header, data_begin = header_of(WEIGHTS)
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text + WEIGHTS[data_begin:]


def swapped(header: dict[str, dict[str, list[int]]]) -> None:
    other = UP.replace("layers.2", "layers.3")
    header[UP]["data_offsets"], header[other]["data_offsets"] = (
        header[other]["data_offsets"],
        header[UP]["data_offsets"],
    )


def unaligned() -> bytes:
    """Return the same tensors in the same order without pads."""
    header, _ = header_of(WEIGHTS)
    arrays = load(WEIGHTS)
    tensors = {name: arrays[name] for name in header if not name.startswith("pad.")}
    offset, entries, chunks = 0, {}, []
    for name, array in tensors.items():
        data = array.tobytes()
        entries[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        chunks.append(data)
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def with_pad_byte() -> bytes:
    header, data_begin = header_of(WEIGHTS)
    at = data_begin + header["pad.0"]["data_offsets"][0]
    return WEIGHTS[:at] + b"\1" + WEIGHTS[at + 1 :]


def shifted_data() -> bytes:
    """Return a file whose header is a byte too long, so that no tensor is aligned."""
    (length,) = struct.unpack("<Q", WEIGHTS[:8])
    return struct.pack("<Q", length + 1) + WEIGHTS[8 : 8 + length] + b" " + WEIGHTS[8 + length :]


MUTANTS: dict[str, list[bytes]] = {
    "misplaced": [unaligned(), with_header(swapped), with_pad_byte(), shifted_data()],
    "missing_tensor": [with_tensors({UP: None})],
    "unknown_tensor": [
        with_tensors({UP.replace("packed", "weight"): np.zeros((3, 2, 6), np.float32)}),
        with_tensors({UP.replace("layers.2", "layers.0"): np.zeros((3, 2, 6), np.float32)}),
    ],
    "wrong_rank": [with_tensors({UP: np.zeros((3, 4, 6), np.float32)})],
    "wrong_shape": [
        with_tensors({UP: np.zeros((4, 2, 6), np.float32)}),
        with_tensors({UP: np.zeros((1, 2, 6), np.float32)}),
        with_tensors({UP: np.zeros((6, 6), np.float32)}),
    ],
    "wrong_dtype": [with_tensors({UP: np.zeros((3, 2, 6), np.float16)})],
    "not_finite": [with_tensors({UP: np.full((3, 2, 6), np.nan, np.float32)})],
}


def test_the_good_one_passes() -> None:
    assert reason_of(WEIGHTS) is None


@pytest.mark.parametrize(
    ("reason", "weights"), [(reason, weights) for reason, mutants in MUTANTS.items() for weights in mutants]
)
def test_mutated_packed_weights_are_refused_with_their_reason(reason: str, weights: bytes) -> None:
    assert reason_of(weights) == reason


@given(at=st.integers(0, len(WEIGHTS) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_refused(at: int, value: int) -> None:
    weights = WEIGHTS[:at] + bytes([value]) + WEIGHTS[at + 1 :]
    assert (reason_of(weights, GOOD.manifest) is None) == (weights == WEIGHTS)


@given(at=st.integers(0, header_of(WEIGHTS)[1] - 1), value=st.integers(0, 255))
def test_any_changed_header_is_refused_or_says_the_same(at: int, value: int) -> None:
    weights = WEIGHTS[:at] + bytes([value]) + WEIGHTS[at + 1 :]
    if reason_of(weights) is None:
        assert header_of(weights)[0] == header_of(WEIGHTS)[0]


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("unsupported_layout", {"layout": "packed/2"}),
        ("unsupported_layout", {"layout": FUSED, "targets": ("experts.gate_proj", "q_proj")}),
        ("unsupported_layout", {"targets": ("q_proj",)}),
        ("unknown_tensor", {"layout": DENSE}),
        ("unknown_tensor", {"layout": FUSED}),
        ("unknown_tensor", {"targets": ("experts.gate_proj",)}),
        ("wrong_targets", {"targets": ("experts.q_proj",)}),
        ("wrong_targets", {"targets": ("shared_experts.up_proj",)}),
    ],
)
def test_manifest_that_lies_about_the_layout_is_refused(reason: str, change: dict[str, object]) -> None:
    manifest = replace(GOOD.manifest, **change)  # type: ignore[arg-type]  # fields by name
    assert reason_of(WEIGHTS, manifest) == reason


@pytest.mark.parametrize(
    ("layout", "tensors"),
    [(DENSE, per_expert(packed_tensors())), (FUSED, fused(shared_a(packed_tensors())))],
)
def test_peft_layouts_are_checked_as_strictly(layout: str, tensors: Tensors) -> None:
    manifest = replace(GOOD.manifest, layout=layout)

    def verdict(changes: dict[str, np.ndarray]) -> str | None:
        weights = write_tensors({**tensors, **changes})
        return reason_of(weights, vouched(weights, manifest))

    name = next(name for name in tensors if ".layers.2.mlp.experts" in name and ".lora_A." in name)
    height, width = tensors[name].shape
    assert verdict({}) is None
    assert verdict({name: np.zeros((height, width + 1), np.float32)}) == "wrong_shape"
    assert verdict({name: np.zeros((2 * height, width), np.float32)}) == "wrong_rank"
    assert verdict({name: np.full((height, width), np.inf, np.float32)}) == "not_finite"
    assert verdict({name.replace("experts", "expert"): tensors[name]}) == "unknown_tensor"


def test_config_of_a_fused_adapter_names_parameters(tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "gravel-r2-fused" / CONFIG_FILE).read_bytes())
    assert config["target_parameters"] == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert config["target_modules"] == ["q_proj"]
    assert config["r"] == config["lora_alpha"] == 2
