"""Bases described from their folders alone, against transformers' models that are loaded from these."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from families import FAMILIES, make_tiny, save_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from unit.trainer import families as trained

from mint_common.adapters_format import (
    BASE_FILE,
    WEIGHTS_FILE,
    BaseFacts,
    build_adapter,
    packed_name,
    peft_name,
    read_base_facts,
)
from mint_common.adapters_format.merge import merge_adapter
from mint_common.adapters_format.names import HALVES, leaf_of
from mint_common.adapters_format.sites import Site, all_sites
from mint_common.errors import AdapterInvalid, InvalidField, NotFound
from mint_common.ids import PolicyId
from services.standalone.adapters.base_description import describe_base
from services.standalone.adapters.model_sizes import shape_of_folder
from services.trainer.adapters.model.decoder import find_decoder, rules_of
from tests.testing.adapters import make_tensors

GOLDEN = Path(__file__).parents[2] / "golden/base_facts"
TAKEN = sorted(FAMILIES.keys() - {"gpt2"})
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models that tests have asked for."""
    return tmp_path_factory.mktemp("families")


def saved(folders: Path, name: str) -> Path:
    """Return the folder of a family's tiny model."""
    folder = folders / name
    return folder if folder.exists() else save_tiny(folder, name)


def copied(folders: Path, name: str, target: Path) -> Path:
    """Return a copy that a test may change."""
    shutil.copytree(saved(folders, name), target)
    return target


def loaded(folder: Path) -> PreTrainedModel:
    """Return the model of a folder as transformers loads it."""
    config = AutoConfig.from_pretrained(folder)
    text = type(config) in AutoModelForCausalLM._model_mapping
    auto = AutoModelForCausalLM if text else AutoModelForImageTextToText
    return auto.from_pretrained(folder, dtype="auto").eval()


def described(folder: Path) -> BaseFacts:
    return describe_base(folder, name="pebble", max_rank=8)


def set_config(folder: Path, **changes: object) -> None:
    """Change fields of a base's config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", TAKEN)
def test_facts_say_of_shared_prompts_what_the_trainer_does(name: str, folders: Path) -> None:
    model = make_tiny(name)
    rules = rules_of(model, find_decoder(model))
    assert described(saved(folders, name)).shares_prompts == (rules.max_shared > 0)


@pytest.mark.parametrize("name", trained.FAMILIES)
def test_facts_are_those_that_earlier_versions_wrote(name: str, tmp_path: Path) -> None:
    facts = msgspec.to_builtins(trained.describe_family(name, tmp_path, num_hidden_layers=3))
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert facts["norms"] == pytest.approx(golden.pop("norms"), rel=1e-3)
    experts = {"gated": True, "biased": False, "transposed": False, "interleaved": False}
    for layer in golden["experts"].values():
        layer.update(experts)
    assert {key: json.loads(json.dumps(facts[key])) for key in golden} == golden
    assert facts["checkpoint_names"] == facts["refused"] == {}


@pytest.mark.parametrize("name", TAKEN)
def test_sites_are_linears_and_experts_of_the_loaded_model(folders: Path, name: str) -> None:
    facts, model = described(saved(folders, name)), loaded(saved(folders, name))
    for module, (width_in, width_out) in facts.modules.items():
        assert type(model.get_submodule(module)) is nn.Linear
        assert model.get_submodule(module).weight.shape == (width_out, width_in)
    weights = {site.name: weight_of(site, facts, model) for site in all_sites(facts)}
    for site in all_sites(facts):
        assert weights[site.name].shape[-2:] == (site.width_out, site.width_in)
    norms = {name: float(torch.linalg.vector_norm(weight.double())) for name, weight in weights.items()}
    assert facts.norms == pytest.approx(norms, rel=1e-5)
    assert facts.targets == tuple(sorted({leaf_of(site.name) for site in all_sites(facts)}))


def weight_of(site: Site, facts: BaseFacts, model: PreTrainedModel) -> Tensor:
    """Return the weight of a site as ``[out, in]``, experts in front, by what the facts say of its layout."""
    if not site.count:
        return model.get_submodule(site.module).weight.detach()
    experts, module = facts.experts[site.module], model.get_submodule(site.module)
    is_first = experts.gated and site.projection != "down_proj"
    weight = module.get_parameter("gate_up_proj" if is_first else site.projection).detach()
    weight = weight.transpose(1, 2) if experts.transposed else weight
    if not is_first:
        return weight
    place = int(site.projection == "up_proj")
    return weight[:, place::2] if experts.interleaved else weight.chunk(2, dim=1)[place]


@pytest.mark.parametrize("name", TAKEN)
def test_names_in_the_files_are_those_of_the_weights(folders: Path, name: str) -> None:
    facts, model = described(saved(folders, name)), loaded(saved(folders, name))
    tensors = load_file(saved(folders, name) / "model.safetensors")
    for site in all_sites(facts):
        weight = weight_of(site, facts, model)
        stored = facts.checkpoint_names.get(site.name, site.stored_name)
        if not site.count:
            assert torch.equal(tensors[f"{stored}.weight"], weight)
        elif "*" in stored:
            for expert in range(site.count):
                assert torch.equal(tensors[f"{stored.replace('*', str(expert))}.weight"], weight[expert])
        else:
            assert tensors.get(stored, tensors.get(f"{stored}.weight")) is not None


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_and_cache_are_those_of_transformers(folders: Path, name: str) -> None:
    folder, tokens = saved(folders, name), 40
    model, shape = loaded(folder), shape_of_folder(folder)
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    with torch.no_grad():
        ids = torch.randint(3, 200, (1, tokens))
        layers = model(input_ids=ids, use_cache=True).past_key_values.layers
    cached = [layer.keys.numel() + layer.values.numel() for layer in layers if hasattr(layer, "keys")]
    states = [state for layer in layers for state in (*of(layer, "conv"), *of(layer, "recurrent"))]
    # transformers needs one token less than the window, the next one's own.
    window = shape.window - 1
    counted = (shape.kv_values - shape.window_values) * tokens + shape.window_values * window
    assert (counted, shape.state_values) == (sum(cached), sum(state.numel() for state in states))


def of(layer: Any, kind: str) -> list[Tensor]:
    return [each for each in getattr(layer, f"{kind}_states", {}).values() if each is not None]


def test_layers_are_told_by_kind_with_their_window(folders: Path) -> None:
    kinds = {
        name: described(saved(folders, name)) for name in ("llama", "mistral", "gemma3_images", "llama4")
    }
    assert {name: (facts.layer_kinds, facts.window) for name, facts in kinds.items()} == {
        "llama": ((), None),
        "mistral": (("sliding_attention",) * 2, 16),
        "gemma3_images": (("sliding_attention", "full_attention"), 16),
        "llama4": (("chunked_attention",) * 3 + ("full_attention",), 32),
    }


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_digest_follows_every_file_that_matters(folders: Path, changed: str, tmp_path: Path) -> None:
    folder = copied(folders, "llama", tmp_path / "base")
    before = described(folder)
    (folder / "README.md").write_text("not part of the base")
    assert describe_base(folder, name="other", max_rank=4).digest == before.digest
    data = (folder / changed).read_bytes()
    # Changed without changing what it says: the last weight, or white space.
    (folder / changed).write_bytes(data[:-1] + b"\1" if changed.endswith("safetensors") else data + b" ")
    assert described(folder).digest != before.digest


@pytest.mark.parametrize("name", ["gpt_oss", "mixtral", "gemma3_images"])
def test_facts_are_read_back_as_written(folders: Path, name: str, tmp_path: Path) -> None:
    facts = described(saved(folders, name))
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    assert read_base_facts(tmp_path) == facts


def test_facts_that_an_earlier_version_wrote_are_read(tmp_path: Path) -> None:
    facts = json.loads(Path("bases/tiny", BASE_FILE).read_bytes())
    older = {"name", "digest", "architecture", "vocab_size", "max_context", "targets", "modules", "max_rank"}
    (tmp_path / BASE_FILE).write_text(json.dumps({key: facts[key] for key in older}))
    read = read_base_facts(tmp_path)
    assert read.experts == read.norms == read.checkpoint_names == read.refused == {}
    assert (read.layer_kinds, read.window, read.quantization) == ((), None, "")


def test_missing_and_broken_files_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"mint_base\.json"):
        read_base_facts(tmp_path)
    with pytest.raises(NotFound, match=r"config\.json"):
        described(tmp_path)
    folder = copied(folders, "llama", tmp_path / "base")
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InvalidField, match=r"model\.safetensors"):
        described(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        described(folder)
    (folder / BASE_FILE).write_text('{"name": "pebble"}')
    with pytest.raises(InvalidField, match="digest"):
        read_base_facts(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(InvalidField, match="is not JSON"):
        described(folder)


def sharded(folder: Path) -> dict[str, str]:
    """Split a folder's weights into two files with an index, and return which tensor is in which."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    (folder / "model.safetensors").unlink()
    said = {name: file for file, own in files.items() for name in own}
    (folder / INDEX).write_text(json.dumps({"weight_map": said}))
    return said


def test_an_index_is_followed_and_checked(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, "llama", tmp_path / "base")
    whole = described(folder)
    said = sharded(folder)
    assert (described(folder).modules, described(folder).norms) == (whole.modules, whole.norms)
    first, second = sorted(set(said.values()))
    (folder / INDEX).write_text(json.dumps({"weight_map": {**said, "model.other.weight": first}}))
    with pytest.raises(InvalidField, match=rf"{first} lacks model\.other\.weight"):
        described(folder)
    elsewhere = second if said["lm_head.weight"] == first else first
    (folder / INDEX).write_text(json.dumps({"weight_map": {**said, "lm_head.weight": elsewhere}}))
    with pytest.raises(InvalidField, match=r"lm_head\.weight is in model-0000.*, not where"):
        described(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InvalidField, match="outside the folder"):
        described(folder)


@pytest.mark.parametrize(
    ("name", "lost", "problem"),
    [
        ("llama", "model.layers.1.", r"lack model\.layers\.1\.\S+, which LlamaForCausalLM has"),
        ("llama", "model.layers.0.input_layernorm.weight", r"1 of \d+ are missing"),
        ("llama", "lm_head.weight", r"lack lm_head\.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w3.", r"up_proj.*3 tensors of .* gives 4 of"),
        ("gemma3_images", "language_model.model.layers.1.", r"lack model\.language_model\.layers\.1\."),
    ],
)
def test_weights_that_miss_something_are_refused(
    folders: Path, name: str, lost: str, problem: str, tmp_path: Path
) -> None:
    folder = copied(folders, name, tmp_path / "base")
    path = folder / "model.safetensors"
    save_file({key: each for key, each in load_file(path).items() if not key.startswith(lost)}, path)
    with pytest.raises(InvalidField, match=problem):
        described(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("llama", {"intermediate_size": 128}), ("qwen3_moe", {"moe_intermediate_size": 32})],
)
def test_weights_of_another_config_are_refused(
    folders: Path, name: str, changes: dict[str, int], tmp_path: Path
) -> None:
    folder = copied(folders, name, tmp_path / "base")
    set_config(folder, **changes)
    with pytest.raises(InvalidField, match=r"_proj.*in the files, where config\.json gives"):
        described(folder)


def test_layers_beyond_the_configs_are_left_out(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, "qwen3_moe", tmp_path / "base")
    set_config(folder, num_hidden_layers=1)
    facts = described(folder)
    assert set(facts.experts) == {"model.layers.0.mlp.experts"}
    assert all(module.startswith("model.layers.0.") for module in facts.modules)


def test_experts_in_one_tensor_are_described_as_experts_apart(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, "qwen3_moe", tmp_path / "base")
    apart = described(folder)
    state = {name: each.contiguous() for name, each in loaded(folder).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    joined = described(folder)
    assert (joined.modules, joined.experts) == (apart.modules, apart.experts)
    assert joined.norms == pytest.approx(apart.norms, rel=1e-5)
    names = {leaf_of(name) for name in joined.checkpoint_names.values()}
    assert names == {"gate_up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("stated", "form", "packed"),
    [
        ({"quant_method": "fp8"}, ".weight", 1),
        ({"quant_method": "awq", "bits": 4}, ".qweight", 8),
        ({"quant_method": "gptq", "bits": 3}, ".qweight", 8),
        ({"quant_method": "compressed-tensors"}, ".weight_packed", 8),
    ],
)
def test_packed_weights_have_the_shapes_of_their_config(
    folders: Path, stated: dict[str, object], form: str, packed: int, tmp_path: Path
) -> None:
    folder = copied(folders, "llama", tmp_path / "base")
    floats = described(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for module, (width_in, width_out) in floats.modules.items():
        del tensors[f"{module}.weight"]
        kind = torch.uint8 if packed == 1 else torch.int32
        tensors[f"{module}{form}"] = torch.zeros((width_out, width_in // packed), dtype=kind)
    save_file(tensors, path)
    with pytest.raises(InvalidField, match=r"is U8 in a base without quantization_config|lack model\.layers"):
        described(folder)
    set_config(folder, quantization_config=stated)
    facts = described(folder)
    assert (facts.modules, facts.norms) == (floats.modules, {})
    assert facts.quantization == stated["quant_method"]


def test_a_quantization_that_is_not_known_is_refused_by_name(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, "llama", tmp_path / "base")
    set_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(InvalidField, match="quantized by bitsandbytes; MinT serves awq"):
        described(folder)


def test_a_model_whose_layers_have_no_linears_is_refused(folders: Path) -> None:
    with pytest.raises(InvalidField, match="GPT2LMHeadModel have no linears"):
        described(saved(folders, "gpt2"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_norms_have_six_digits_in_any_dtype(folders: Path, dtype: type[np.floating], tmp_path: Path) -> None:
    folder = copied(folders, "llama", tmp_path / "base")
    path = folder / "model.safetensors"
    kind = torch.float16 if dtype is np.float16 else torch.float32
    tensors = {name: each.to(kind) for name, each in load_file(path).items()}
    save_file(tensors, path)
    for module, norm in described(folder).norms.items():
        exact = math.sqrt(float((tensors[f"{module}.weight"].double() ** 2).sum()))
        assert norm == float(f"{exact:.6g}")


@pytest.mark.parametrize("name", TAKEN)
def test_a_merge_adds_each_update_to_its_weight_as_transformers_loads_it(
    folders: Path, name: str, tmp_path: Path
) -> None:
    folder = saved(folders, name)
    facts = described(folder)
    whole = write_adapter(facts, facts, tmp_path / "whole")
    names = [
        facts.checkpoint_names.get(site.name, site.stored_name) for site in all_sites(facts) if site.count
    ]
    if not all("*" in each for each in names):
        with pytest.raises(AdapterInvalid, match="holds all experts of a layer in one tensor"):
            merge_adapter(facts, folder, whole, tmp_path / "merged")
        whole = write_adapter(facts, replace(facts, experts={}), tmp_path / "dense")
    merge_adapter(facts, folder, whole, tmp_path / "merged")
    before, after, halves = loaded(folder), loaded(tmp_path / "merged"), load_file(whole / WEIGHTS_FILE)
    changed = 0
    for site in all_sites(facts):
        a, b = (halves.get(peft_name(site.module, half)) for half in HALVES)
        if site.count:
            a, b = (halves.get(packed_name(site.module, site.projection, half)) for half in HALVES)
        weight = weight_of(site, facts, before)
        expected = weight.float() if a is None or b is None else weight.float() + b @ a
        tolerance = 1e-5 if weight.dtype == torch.float32 else 2**-7
        found = weight_of(site, facts, after).float()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        changed += a is not None
    assert changed >= len(facts.modules)


def write_adapter(facts: BaseFacts, sites: BaseFacts, folder: Path) -> Path:
    """Write an adapter on all sites of some facts."""
    folder.mkdir()
    policy = PolicyId("p")
    made = build_adapter(
        facts=facts, policy_id=policy, step=1, parent=None, rank=2, tensors=make_tensors(sites)
    )
    for file, data in made.files.items():
        (folder / file).write_bytes(data)
    return folder
