"""Every mutation of a good adapter is refused with its reason, and nothing but AdapterInvalid is raised."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.adapters_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Manifest,
    check_adapter,
    check_folder,
    check_manifest,
    peft_name,
)
from mint_common.adapters_format.config import check_config
from mint_common.adapters_format.manifest import proof_of
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.errors import AdapterInvalid
from mint_common.ids import sha256_digest
from tests.testing.adapters import make_adapter, make_base_facts, make_tensors, vouched

FACTS = make_base_facts()
GOOD = make_adapter(FACTS)
WEIGHTS = GOOD.files[WEIGHTS_FILE]
FIRST = peft_name("model.layers.0.mlp.down_proj", "A")

Header = dict[str, dict[str, object]]


def reason_of(manifest: Manifest, weights: bytes) -> str | None:
    try:
        check_adapter(FACTS, manifest, weights)
    except AdapterInvalid as error:
        return str(error.reason)
    return None


def with_header(change: Callable[[Header], object]) -> bytes:
    (length,) = struct.unpack("<Q", WEIGHTS[:8])
    header = json.loads(WEIGHTS[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + WEIGHTS[8 + length :]


def with_tensors(**changes: np.ndarray | None) -> bytes:
    tensors = dict(make_tensors(FACTS))
    for name, array in changes.items():
        if array is None:
            del tensors[name]
        else:
            tensors[name] = array
    return write_tensors(tensors)


def with_value(value: float, dtype: str) -> tuple[bytes, Manifest]:
    """Return weights in a dtype, with one value in the last tensor, and their manifest."""
    tensors = {name: array.copy() for name, array in make_tensors(FACTS).items()}
    tensors[max(tensors)][-1, -1] = value
    if dtype == "BF16":
        halves = {
            name: (array.view(np.uint32) >> 16).astype(np.uint16).view(np.float16)
            for name, array in tensors.items()
        }
        weights = write_tensors(halves).replace(b'"F16"', b'"BF16"')
        (length,) = struct.unpack("<Q", weights[:8])
        weights = struct.pack("<Q", length + len(tensors)) + weights[8:]
    else:
        kind = {"F32": np.float32, "F16": np.float16}[dtype]
        weights = write_tensors({name: array.astype(kind) for name, array in tensors.items()})
    return weights, vouched(weights, replace(GOOD.manifest, dtype=dtype))


def test_good_adapter_passes_from_bytes_and_from_a_folder(tmp_path: Path) -> None:
    for name, data in GOOD.files.items():
        (tmp_path / name).write_bytes(data)
    check_adapter(FACTS, GOOD.manifest, WEIGHTS)
    check_folder(FACTS, GOOD.manifest, tmp_path)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_not_finite_is_refused_and_its_tensor_named(value: float, dtype: str) -> None:
    weights, manifest = with_value(value, dtype)
    with pytest.raises(AdapterInvalid, match=r"self_attn\.q_proj\.lora_B") as refused:
        check_adapter(FACTS, manifest, weights)
    assert refused.value.reason == "not_finite"


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [0.0, -0.0, 65504.0, 1e-7])
def test_every_allowed_dtype_passes(value: float, dtype: str) -> None:
    weights, manifest = with_value(value, dtype)
    check_adapter(FACTS, manifest, weights)


MUTATED_WEIGHTS = {
    "not_safetensors": [
        b"",
        b"PK\x03\x04",
        WEIGHTS[:7],
        WEIGHTS[:100],
        struct.pack("<Q", 10**6) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xfe",
        struct.pack("<Q", 4000) + b"[" * 4000,
        struct.pack("<Q", 22) + b'{"a":1,"a":2}         ',
        with_header(lambda header: header[FIRST].update(shape="2,8")),
        with_header(lambda header: header[FIRST].update(shape=[2, -8])),
        with_header(lambda header: header[FIRST].update(shape=[2, True])),
        with_header(lambda header: header[FIRST].update(data_offsets=[0, 10**30])),
        with_header(lambda header: header[FIRST].update(strides=[1])),
        with_header(lambda header: header.update({"__metadata__": {"a": 1}})),  # type: ignore[dict-item]
    ],
    "header_too_large": [
        struct.pack("<Q", 100_000_001) + WEIGHTS[8:],
        # Allowed by the format, but far more than the names of this base's tensors.
        struct.pack("<Q", 3 << 20) + WEIGHTS[8:] + bytes(3 << 20),
    ],
    "gaps_or_overlaps": [
        WEIGHTS[:-1],
        WEIGHTS + b"\0",
        with_header(lambda header: header[FIRST].update(data_offsets=[4, 64])),
        with_header(lambda header: header[FIRST].update(data_offsets=[0, 60])),
    ],
    "unknown_tensor": [
        with_header(lambda header: header.update({"\ud800\0" + "x" * 999: header.pop(FIRST)})),
        with_tensors(**{FIRST.replace("down_proj", "up_proj"): np.zeros((2, 8), np.float32)}),
        with_tensors(**{FIRST.replace("lora_A.weight", "lora_magnitude_vector"): np.zeros(8, np.float32)}),
        with_tensors(**{FIRST.replace("base_model.", ""): np.zeros((2, 8), np.float32)}),
    ],
    "missing_tensor": [with_tensors(**{FIRST: None}), write_tensors({})],
    "wrong_rank": [
        with_tensors(**{FIRST: np.zeros((3, 8), np.float32)}),
        with_tensors(**{FIRST: np.zeros((1, 8), np.float32)}),
        write_tensors(make_tensors(FACTS, rank=4)),
    ],
    "wrong_shape": [
        with_tensors(**{FIRST: np.zeros((2, 9), np.float32)}),
        with_tensors(**{FIRST: np.zeros((8, 2), np.float32)}),
        with_tensors(**{FIRST: np.zeros((2, 2, 4), np.float32)}),
        with_tensors(**{FIRST: np.zeros(16, np.float32)}),
    ],
    "wrong_dtype": [
        with_header(lambda header: header[FIRST].update(dtype="F64")),
        with_header(lambda header: header[FIRST].update(dtype="I32")),
        with_tensors(**{FIRST: np.zeros((2, 8), np.float16)}),
    ],
}


@pytest.mark.parametrize(
    ("reason", "weights"),
    [(reason, weights) for reason, mutants in MUTATED_WEIGHTS.items() for weights in mutants],
)
def test_mutated_weights_are_refused_with_their_reason(reason: str, weights: bytes) -> None:
    assert reason_of(vouched(weights, GOOD.manifest), weights) == reason


@given(at=st.integers(0, len(WEIGHTS) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_refused(at: int, value: int) -> None:
    weights = WEIGHTS[:at] + bytes([value]) + WEIGHTS[at + 1 :]
    assert (reason_of(GOOD.manifest, weights) is None) == (weights == WEIGHTS)


@given(weights=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(weights: bytes) -> None:
    assert reason_of(vouched(weights, GOOD.manifest), weights) is not None


@given(
    text=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps({FIRST: value, "__metadata__": value}).encode())
)
def test_any_json_header_is_refused(text: bytes) -> None:
    weights = struct.pack("<Q", len(text)) + text
    assert reason_of(vouched(weights, GOOD.manifest), weights) is not None


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("unsupported_layout", {"layout": "packed/1"}),
        ("wrong_base", {"base_digest": sha256_digest(b"other")}),
        ("wrong_base", {"base": "other"}),
        ("wrong_targets", {"targets": ("down_proj", "embed_tokens")}),
        ("no_modules", {"targets": ()}),
        ("unknown_tensor", {"targets": ("down_proj",)}),
        ("wrong_rank", {"rank": 9}),
        ("wrong_rank", {"rank": 3}),
        ("wrong_dtype", {"dtype": "F64"}),
        ("wrong_dtype", {"dtype": "F16"}),
        ("wrong_digest", {"digest": sha256_digest(b"other")}),
        ("wrong_digest", {"files": {**GOOD.manifest.files, WEIGHTS_FILE: proof_of(b"other")}}),
    ],
)
def test_manifest_that_lies_is_refused_with_its_reason(reason: str, change: dict[str, object]) -> None:
    manifest = replace(GOOD.manifest, **change)  # type: ignore[arg-type]  # fields by name
    assert reason_of(manifest, WEIGHTS) == reason


def test_huge_files_are_refused_before_they_are_fetched() -> None:
    huge = replace(proof_of(b""), size_bytes=10**12)
    for name, reason in ((WEIGHTS_FILE, "wrong_shape"), (CONFIG_FILE, "unsupported_config")):
        manifest = replace(GOOD.manifest, files={**GOOD.manifest.files, name: huge})
        with pytest.raises(AdapterInvalid) as refused:
            check_manifest(FACTS, manifest)
        assert refused.value.reason == reason


def config_with(**changes: object) -> bytes:
    return json.dumps({**json.loads(GOOD.files[CONFIG_FILE]), **changes}).encode()


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 10**5,
        config_with(r=3),
        config_with(lora_alpha=4),
        config_with(target_modules="all-linear"),
        config_with(target_modules=["q_proj"]),
        config_with(base_model_name_or_path="other"),
        config_with(peft_type="LOHA"),
        config_with(bias="all"),
        config_with(use_dora=True),
        config_with(use_rslora=True),
        config_with(modules_to_save=["lm_head"]),
        config_with(rank_pattern={"q_proj": 4}),
        config_with(alpha_pattern={"q_proj": 4}),
        config_with(init_lora_weights="pissa"),
        config_with(layers_to_transform=[1]),
        config_with(feature_of_tomorrow={"on": True}),
    ],
)
def test_config_beyond_plain_lora_is_refused(config: bytes) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        check_config(FACTS, GOOD.manifest, config)
    assert refused.value.reason == "unsupported_config"


def test_config_with_features_turned_off_passes() -> None:
    check_config(
        FACTS, GOOD.manifest, config_with(rank_pattern={}, lora_bias=False, layers_to_transform=None)
    )


def test_adapter_of_fewer_targets_passes() -> None:
    tensors = {name: array for name, array in make_tensors(FACTS).items() if "q_proj" in name}
    weights = write_tensors(tensors)
    manifest = vouched(weights, replace(GOOD.manifest, targets=("q_proj",)))
    check_adapter(FACTS, manifest, weights)


def test_message_stays_short_and_printable() -> None:
    weights = MUTATED_WEIGHTS["unknown_tensor"][0]
    with pytest.raises(AdapterInvalid) as refused:
        check_adapter(FACTS, vouched(weights, GOOD.manifest), weights)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()
