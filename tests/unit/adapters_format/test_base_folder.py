"""Describing bases from HF folders, without loading them."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mint_common.adapters_format import BASE_FILE, describe_base, read_base_facts
from mint_common.errors import InvalidField, NotFound

CONFIG = {"vocab_size": 32, "max_position_embeddings": 64}
D, KV, FF, VOCAB = 8, 4, 12, 32
LINEARS = {
    "self_attn.q_proj": (D, D),
    "self_attn.k_proj": (KV, D),
    "self_attn.v_proj": (KV, D),
    "self_attn.o_proj": (D, D),
    "mlp.gate_proj": (FF, D),
    "mlp.up_proj": (FF, D),
    "mlp.down_proj": (D, FF),
}


def make_base(folder: Path, architecture: str, *, sharded: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architectures": [architecture]}))
    (folder / "tokenizer.json").write_text("{}")
    layers = [
        {
            f"model.layers.{layer}.{name}.weight": np.zeros(shape, np.float32)
            for name, shape in LINEARS.items()
        }
        | {f"model.layers.{layer}.self_attn.q_norm.weight": np.zeros(D, np.float32)}
        for layer in range(2)
    ]
    outside = {
        "model.embed_tokens.weight": np.zeros((VOCAB, D), np.float32),
        "lm_head.weight": np.zeros((VOCAB, D), np.float32),
    }
    if not sharded:
        save_file(layers[0] | layers[1] | outside, folder / "model.safetensors")
        return folder
    shards = {
        "model-00001-of-00002.safetensors": layers[0],
        "model-00002-of-00002.safetensors": layers[1] | outside,
    }
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def set_config(folder: Path, **changes: object) -> None:
    """Change fields of a base's config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("sharded", [False, True])
def test_dense_base_is_described_from_headers(tmp_path: Path, architecture: str, sharded: bool) -> None:
    facts = describe_base(make_base(tmp_path, architecture, sharded=sharded), name="pebble", max_rank=8)
    assert facts.architecture == architecture
    assert (facts.vocab_size, facts.max_context, facts.max_rank) == (32, 64, 8)
    assert facts.targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert len(facts.modules) == 14
    assert facts.modules["model.layers.1.self_attn.k_proj"] == (D, KV)
    assert facts.modules["model.layers.0.mlp.down_proj"] == (FF, D)


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_digest_follows_every_file_that_matters(tmp_path: Path, changed: str) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM")
    before = describe_base(folder, name="pebble", max_rank=8)
    (folder / "README.md").write_text("not part of the base")
    assert describe_base(folder, name="other", max_rank=4).digest == before.digest
    data = (folder / changed).read_bytes()
    # Changed without changing what it says: the last weight, or white space.
    (folder / changed).write_bytes(data[:-1] + b"\1" if changed.endswith("safetensors") else data + b" ")
    assert describe_base(folder, name="pebble", max_rank=8).digest != before.digest


def test_facts_are_read_back_as_written(tmp_path: Path) -> None:
    facts = describe_base(make_base(tmp_path, "LlamaForCausalLM"), name="pebble", max_rank=8)
    assert not (tmp_path / BASE_FILE).exists()
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    assert read_base_facts(tmp_path) == facts


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"mint_base\.json"):
        read_base_facts(tmp_path)
    with pytest.raises(NotFound, match=r"config\.json"):
        describe_base(tmp_path, name="pebble", max_rank=8)
    make_base(tmp_path, "LlamaForCausalLM")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        describe_base(tmp_path, name="pebble", max_rank=8)


def test_what_is_not_a_dense_base_is_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM")
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InvalidField, match=r"model\.safetensors"):
        describe_base(folder, name="pebble", max_rank=8)
    (folder / BASE_FILE).write_text('{"name": "pebble"}')
    with pytest.raises(InvalidField, match="digest"):
        read_base_facts(folder)


def test_index_cannot_lead_outside_the_folder(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "LlamaForCausalLM", sharded=True)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(InvalidField, match="outside the folder"):
        describe_base(folder, name="pebble", max_rank=8)


def test_a_tensor_that_is_not_where_the_index_says_is_named(tmp_path: Path) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM", sharded=True)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(said.values()))
    index.write_text(json.dumps({"weight_map": {**said, "model.norm.weight": first}}))
    with pytest.raises(InvalidField, match=rf"{first} lacks model\.norm\.weight"):
        describe_base(folder, name="pebble", max_rank=8)
    index.write_text(json.dumps({"weight_map": {**said, "lm_head.weight": first}}))
    with pytest.raises(InvalidField, match=rf"lm_head\.weight is in {second}, not where"):
        describe_base(folder, name="pebble", max_rank=8)


INT4 = {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}}


@pytest.mark.parametrize(
    ("stated", "form", "stored", "dtype"),
    [
        ({"quant_method": "fp8"}, "weight", (24, 64), "uint8"),
        ({"quant_method": "awq", "bits": 4}, "qweight", (64, 3), "int32"),
        ({"quant_method": "gptq", "bits": 4}, "qweight", (8, 24), "int32"),
        ({"quant_method": "gptq", "bits": 3}, "qweight", (6, 24), "int32"),
        ({"quant_method": "compressed-tensors", **INT4}, "weight_packed", (24, 8), "int32"),
    ],
)
def test_packed_weights_have_the_shape_that_they_stand_for(
    tmp_path: Path, stated: dict[str, object], form: str, stored: tuple[int, int], dtype: str
) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM")
    name = "model.layers.0.self_attn.q_proj"
    save_file({f"{name}.{form}": np.zeros(stored, dtype)}, folder / "model.safetensors")
    set_config(folder, quantization_config=stated)
    facts = describe_base(folder, name="pebble", max_rank=8)
    assert facts.modules == {name: (64, 24)}
    assert facts.quantization == stated["quant_method"]
    assert facts.norms == {}


def test_a_quantization_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM")
    set_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(InvalidField, match="quantized by bitsandbytes; MinT serves awq"):
        describe_base(folder, name="pebble", max_rank=8)
    set_config(folder, quantization_config={"quant_method": "gptq", "bits": "four"})
    with pytest.raises(InvalidField, match="'four' bits"):
        describe_base(folder, name="pebble", max_rank=8)


def make_moe_base(folder: Path, *, fused: bool, **changes: np.ndarray | None) -> Path:
    """Make a DeepSeek-like base: MLA, a dense layer, one of experts with a shared one, and one too many."""
    config = {**CONFIG, "architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 2}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    moe = "model.layers.1.mlp"
    shapes = {
        "model.layers.0.self_attn.q_a_proj": (3, D),
        "model.layers.0.self_attn.kv_a_proj_with_mqa": (5, D),
        "model.layers.0.self_attn.indexer.wq_b": (5, D),
        "model.layers.0.mlp.up_proj": (FF, D),
        f"{moe}.gate": (4, D),
        f"{moe}.shared_experts.up_proj": (6, D),
        "model.layers.2.self_attn.o_proj": (D, D),
    }
    if fused:
        shapes |= {f"{moe}.experts.gate_up_proj": (4, 6, D), f"{moe}.experts.down_proj": (4, D, 3)}
    else:
        for expert in range(4):
            shapes |= {f"{moe}.experts.{expert}.{leaf}_proj": (3, D) for leaf in ("gate", "up")}
            shapes[f"{moe}.experts.{expert}.down_proj"] = (D, 3)
    tensors = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(
        {n: a for n, a in {**tensors, **changes}.items() if a is not None}, folder / "model.safetensors"
    )
    return folder


@pytest.mark.parametrize("fused", [False, True])
def test_base_with_experts_is_described_however_they_are_stored(tmp_path: Path, fused: bool) -> None:
    facts = describe_base(make_moe_base(tmp_path, fused=fused), name="pebble", max_rank=8)
    assert facts.modules == {
        "model.layers.0.mlp.up_proj": (D, FF),
        "model.layers.0.self_attn.kv_a_proj_with_mqa": (D, 5),
        "model.layers.0.self_attn.q_a_proj": (D, 3),
        "model.layers.1.mlp.shared_experts.up_proj": (D, 6),
    }
    (layer,) = facts.experts.items()
    assert layer[0] == "model.layers.1.mlp.experts"
    assert layer[1].count == 4
    assert layer[1].projections == {"down_proj": (3, D), "gate_proj": (D, 3), "up_proj": (D, 3)}
    assert facts.targets == (
        "down_proj",
        "gate_proj",
        "kv_a_proj_with_mqa",
        "q_a_proj",
        "up_proj",
    )
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    assert read_base_facts(tmp_path) == facts


@pytest.mark.parametrize("array", [None, np.zeros((4, D), np.float32), np.zeros((4, D, 1), np.float32)])
def test_experts_that_are_not_all_alike_are_refused(tmp_path: Path, array: np.ndarray | None) -> None:
    odd = {"model.layers.1.mlp.experts.2.up_proj.weight": array}
    with pytest.raises(InvalidField, match="expert"):
        describe_base(make_moe_base(tmp_path, fused=False, **odd), name="pebble", max_rank=8)


def test_facts_that_say_nothing_of_experts_or_norms_are_read(tmp_path: Path) -> None:
    facts = json.loads(Path("bases/tiny", BASE_FILE).read_bytes())
    del facts["experts"], facts["norms"]
    (tmp_path / BASE_FILE).write_text(json.dumps(facts))
    assert read_base_facts(tmp_path).experts == read_base_facts(tmp_path).norms == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("fused", [False, True])
def test_norms_are_those_of_the_weights(tmp_path: Path, fused: bool, dtype: type[np.floating]) -> None:
    folder = make_moe_base(tmp_path, fused=fused)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(array.shape).astype(dtype)
        for name, array in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors")
    norms = describe_base(folder, name="pebble", max_rank=8).norms

    kv_a = "model.layers.0.self_attn.kv_a_proj_with_mqa"
    assert norms[kv_a] == pytest.approx(norm(tensors[f"{kv_a}.weight"]), rel=1e-5)
    experts = "model.layers.1.mlp.experts"
    if fused:
        gate = tensors[f"{experts}.gate_up_proj.weight"][:, :3]
    else:
        gate = np.stack([tensors[f"{experts}.{expert}.gate_proj.weight"] for expert in range(4)])
    assert norms[f"{experts}.gate_proj"] == pytest.approx(norm(gate), rel=1e-5)
    routed = {f"{experts}.{leaf}_proj" for leaf in ("down", "gate", "up")}
    assert norms.keys() == routed | describe_base(folder, name="pebble", max_rank=8).modules.keys()


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def test_norm_of_weights_that_need_scales_is_left_out(tmp_path: Path) -> None:
    folder = make_base(tmp_path, "LlamaForCausalLM")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.weight"] = np.zeros(tensors[f"{name}.weight"].shape, np.uint8)
    save_file(tensors, path)
    with pytest.raises(InvalidField, match="is U8 in a base without quantization_config"):
        describe_base(folder, name="pebble", max_rank=8)
    set_config(folder, quantization_config={"quant_method": "fp8"})
    facts = describe_base(folder, name="pebble", max_rank=8)
    assert facts.norms.keys() == facts.modules.keys() - {name}
