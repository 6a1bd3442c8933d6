"""A merged model as a tar: one stream of bytes, wherever reading begins."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from mint_common.adapters_format import (
    BASE_FILE,
    BaseFacts,
    ExpertsFacts,
    build_adapter,
    peft_name,
)
from mint_common.adapters_format.merge import MergedFile, Piece
from mint_common.adapters_format.merged_tar import plan_tar, read_tar, tar_bytes
from mint_common.adapters_format.names import packed_name
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.errors import AdapterInvalid, NotFound
from mint_common.ids import BaseName, Digest, PolicyId

WIDTH = 700
"""A weight of it has more than one piece."""
MODULE = "model.layers.0.mlp.up_proj"
EXPERTS = "model.layers.1.mlp.experts"
FACTS = BaseFacts(
    name=BaseName("heap"),
    digest=Digest("sha256:" + "1" * 64),
    architecture="Qwen3MoeForCausalLM",
    vocab_size=8,
    max_context=8,
    targets=("up_proj",),
    modules={MODULE: (WIDTH, WIDTH)},
    max_rank=4,
    experts={EXPERTS: ExpertsFacts(count=2, projections={"up_proj": (8, 16)})},
)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """What the base has."""
    experts = {f"{EXPERTS}.{expert}.up_proj.weight": numbers(expert, 16, 8) for expert in range(2)}
    return {f"{MODULE}.weight": numbers(7, WIDTH, WIDTH), "norm.weight": numbers(8, 9), **experts}


@pytest.fixture
def base(tmp_path: Path, weights: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(FACTS))
    (folder / "model.safetensors").write_bytes(write_tensors(weights))
    for name in ("config.json", "tokenizer.json", "README.md", "LICENSE", "weights.bin"):
        (folder / name).write_text(f"{{}} of {name}")
    return folder


HALVES = {
    peft_name(MODULE, "A"): numbers(1, 2, WIDTH),
    peft_name(MODULE, "B"): numbers(2, WIDTH, 2),
    packed_name(EXPERTS, "up_proj", "A"): numbers(3, 2, 2, 8),
    packed_name(EXPERTS, "up_proj", "B"): numbers(4, 2, 16, 2),
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    files = build_adapter(facts=FACTS, policy_id=PolicyId("p"), step=1, parent=None, rank=2, tensors=HALVES)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_tar_has_a_base_s_files_with_the_sums_in_them(base, adapter, weights) -> None:
    content = b"".join(read_tar(plan_tar(base, adapter)))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(files) == ["config.json", "tokenizer.json", "model.safetensors", "LICENSE"]
    assert all(files[name] == (base / name).read_bytes() for name in ("config.json", "LICENSE"))
    weights[f"{MODULE}.weight"] += HALVES[peft_name(MODULE, "B")] @ HALVES[peft_name(MODULE, "A")]
    for expert in range(2):
        a, b = (HALVES[packed_name(EXPERTS, "up_proj", half)][expert] for half in "AB")
        weights[f"{EXPERTS}.{expert}.up_proj.weight"] += b @ a
    found = np.frombuffer(
        files["model.safetensors"][-4 * sum(w.size for w in weights.values()) :], np.float32
    )
    expected = np.concatenate([weights[name].ravel() for name in sorted(weights)])
    assert np.allclose(found, expected, rtol=0, atol=1e-5)


def test_reading_begins_at_any_byte(base, adapter) -> None:
    files = plan_tar(base, adapter)
    content = b"".join(read_tar(files))
    assert tar_bytes(files) == len(content)
    for begin in (*range(0, 4000, 97), *range(0, len(content), 190_001), len(content) - 1):
        assert b"".join(read_tar(files, begin=begin)) == content[begin:], begin


def test_nothing_is_made_of_what_is_skipped() -> None:
    def pieces() -> Iterator[Piece]:
        for _ in range(3):
            yield Piece(size_bytes=4 << 30, make=lambda: pytest.fail("made"))

    file = MergedFile(name="model.safetensors", size_bytes=12 << 30, pieces=pieces)
    total = tar_bytes([file])
    assert total == (12 << 30) + 3 * 512
    assert b"".join(read_tar([file], begin=total - 1024)) == bytes(1024)
    head = next(read_tar([file]))
    assert tarfile.TarInfo.frombuf(bytes(head), "utf-8", "strict").size == 12 << 30


def test_the_adapter_may_go_once_the_tar_is_planned(base, adapter) -> None:
    content = b"".join(read_tar(plan_tar(base, adapter)))
    files = plan_tar(base, adapter)
    for path in adapter.iterdir():
        path.unlink()
    assert b"".join(read_tar(files)) == content


NAME = f"{MODULE}.weight"
NEAR_THE_END = WIDTH - 1, 5
"""A place in the second piece of a float16 weight."""


def in_half(base: Path, weights: dict[str, np.ndarray], *, largest: float) -> None:
    """Store a base in float16 with one weight of that size."""
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    halves[NAME][NEAR_THE_END] = largest
    (base / "model.safetensors").write_bytes(write_tensors(halves))


def adapter_of(folder: Path, *, update: float) -> Path:
    """Write an adapter whose update is one number, at `NEAR_THE_END`."""
    a, b = np.zeros((2, WIDTH), np.float32), np.zeros((WIDTH, 2), np.float32)
    row, column = NEAR_THE_END
    a[0, column], b[row, 0] = update / 64, 64
    tensors = {**HALVES, peft_name(MODULE, "A"): a, peft_name(MODULE, "B"): b}
    files = build_adapter(facts=FACTS, policy_id=PolicyId("p"), step=1, parent=None, rank=2, tensors=tensors)
    folder.mkdir()
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


def merged_model(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    (model,) = [file for file in plan_tar(base, adapter) if file.name == "model.safetensors"]
    return safetensors.numpy.load(b"".join(piece.make() for piece in model.pieces()))


@pytest.mark.parametrize(("largest", "update"), [(65504.0, -70000.0), (65504.0, 15.0), (-60000.0, 100000.0)])
def test_what_float16_holds_is_merged(base, weights, tmp_path, largest: float, update: float) -> None:
    """The next number in float16 would be 65,536: up to half of the way sums are rounded down."""
    in_half(base, weights, largest=largest)
    merged = merged_model(base, adapter_of(tmp_path / "wide", update=update))[NAME]
    assert merged.dtype == np.float16
    assert merged[NEAR_THE_END] == np.float16(np.float32(largest) + np.float32(update))
    assert np.isfinite(merged).all()


@pytest.mark.parametrize(("largest", "update"), [(0.0, 65520.0), (1000.0, 65000.0), (-40000.0, -40000.0)])
def test_an_update_beyond_float16_is_refused_before_anything_is_made(
    base, weights, tmp_path, largest: float, update: float
) -> None:
    in_half(base, weights, largest=largest)
    with pytest.raises(AdapterInvalid, match=f"update_too_large.*{NAME}.*65504"):
        plan_tar(base, adapter_of(tmp_path / "wide", update=update))


def test_a_weight_of_the_base_near_the_end_of_float16_is_no_infinity(base, weights, tmp_path) -> None:
    in_half(base, weights, largest=60000.0)
    files = plan_tar(base, adapter_of(tmp_path / "wide", update=6000.0))
    made: list[bytes | memoryview] = []
    with pytest.raises(AdapterInvalid, match=f"update_too_large.*{NAME}"):
        made.extend(read_tar(files))
    reached = sum(map(len, made))
    with pytest.raises(AdapterInvalid, match=NAME):
        next(read_tar(files, begin=reached))
    assert len(next(read_tar(files, begin=reached - 1))) == 1


def test_what_the_base_itself_has_no_number_for_stays(base, weights, tmp_path) -> None:
    in_half(base, weights, largest=np.inf)
    assert np.isinf(merged_model(base, adapter_of(tmp_path / "wide", update=100.0))[NAME][NEAR_THE_END])


def test_a_base_that_does_not_fit_is_refused_before_anything_is_made(base, adapter, weights) -> None:
    shard = base / "model.safetensors"
    fused = {name: array for name, array in weights.items() if not name.startswith(EXPERTS)}
    shard.write_bytes(write_tensors({**fused, f"{EXPERTS}.up_proj": numbers(0, 2, 16, 8)}))
    with pytest.raises(AdapterInvalid, match="Save the base again with transformers"):
        plan_tar(base, adapter)
    shard.write_bytes(write_tensors({**weights, f"{MODULE}.weight": numbers(0, 4, 4)}))
    with pytest.raises(AdapterInvalid, match="wrong_shape"):
        plan_tar(base, adapter)
    shard.unlink()
    with pytest.raises(NotFound, match="weights of the base"):
        plan_tar(base, adapter)
