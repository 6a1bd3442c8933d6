"""Sizes computed from a config alone, against transformers' own models without values, and files on disk."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from unit.trainer.families import FAMILIES, describe_family

from mint_common.adapters_format import read_base_facts
from mint_common.adapters_format.sites import FOLDED, all_sites
from mint_common.adapters_format.tensor_file import map_tensors
from mint_common.errors import InvalidField
from services.standalone.adapters.model_sizes import read_shape
from services.standalone.core.model_shape import ModelShape
from tests.families import save_tiny

NEEDED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "dtype"),
)
TINY = Path(__file__).parents[3] / "bases/tiny"
QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}


def shape_of(config: transformers.PretrainedConfig, name: str) -> ModelShape:
    """Return the shape of a config as its file would give it."""
    written = {**config.to_dict(), "architectures": [f"{name}ForCausalLM"]}
    return read_shape(json.loads(json.dumps(written, default=str)), place="config.json")


def made(config: transformers.PretrainedConfig, name: str) -> torch.nn.Module:
    """Return transformers' model of a config, without values."""
    with torch.device("meta"):
        return getattr(transformers, f"{name}ForCausalLM")(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_and_lora_sites_are_those_of_a_base_on_disk(name: str, tmp_path: Path) -> None:
    sites = all_sites(describe_family(name, tmp_path, num_hidden_layers=3))
    shape = read_shape(json.loads((tmp_path / "config.json").read_text()), place="config.json")
    tensors = map_tensors(tmp_path / "model.safetensors").header.tensors
    parameters = [each for each in tensors if not each.name.endswith("e_score_correction_bias")]
    assert shape.parameters == sum(torch.Size(each.shape).numel() for each in parameters)
    served = [site for site in sites if site.projection != FOLDED]
    assert shape.lora_parameters(rank=2) == 2 * sum(
        (site.width_in + site.width_out) * max(site.count, 1) for site in served
    )


def test_a_field_left_out_has_the_default_of_transformers() -> None:
    config = transformers.DeepseekV3Config(num_hidden_layers=4)
    written = json.loads(json.dumps(config.to_diff_dict(), default=str))
    needed = {name: getattr(config, name) for name in NEEDED}
    shape = read_shape({**written, **needed, "architectures": ["DeepseekV3ForCausalLM"]}, place="")
    assert shape == shape_of(config, "DeepseekV3")


@pytest.mark.parametrize("folder", [TINY], ids=["tiny"])
def test_parameters_and_lora_sites_are_those_of_the_files(folder: Path) -> None:
    shape = read_shape(json.loads((folder / "config.json").read_text()), place="config.json")
    header = map_tensors(folder / "model.safetensors").header
    assert shape.parameters == sum(torch.Size(tensor.shape).numel() for tensor in header.tensors)
    modules = read_base_facts(folder).modules.values()
    assert shape.lora_parameters(rank=3) == 3 * sum(map(sum, modules))


def test_a_token_of_the_kv_cache_has_keys_and_values_of_every_layer() -> None:
    shape = read_shape(QWEN3_4B, place="config.json")
    assert (shape.parameters, shape.dtype) == (4_022_468_096, "bfloat16")
    assert shape.kv_values == 36 * 2 * 8 * 128


def test_longrope_has_the_context_of_its_short_frequencies(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "phi3_longrope")
    config = json.loads((folder / "config.json").read_text())
    assert read_shape(config, place="here").max_context == 64 < config["max_position_embeddings"]


def test_latent_attention_keeps_the_latent_and_the_rope_part_alone() -> None:
    shape = shape_of(transformers.DeepseekV3Config(), "DeepseekV3")
    assert (shape.kv_values, shape.kv_bytes) == (61 * (512 + 64), 0)
    assert shape_of(transformers.DeepseekV32Config(), "DeepseekV32").kv_bytes == 61 * 132


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "architectures"),
        ({**QWEN3_4B, "architectures": ["NoSuchModel"]}, "NoSuchModel"),
        ({**QWEN3_4B, "hidden_size": "wide"}, "hidden_size"),
        ({**QWEN3_4B, "num_attention_heads": 0, "head_dim": None}, "head_dim"),
    ],
)
def test_a_config_that_says_too_little_is_refused_naming_the_field(
    config: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidField, match=problem):
        read_shape(config, place="config.json")
