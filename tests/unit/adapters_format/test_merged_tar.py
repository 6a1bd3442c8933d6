"""A merged model as a tar: one stream of bytes, wherever reading begins."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

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
