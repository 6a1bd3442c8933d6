"""What a model takes of a fleet, against sizes that were worked out by hand or by transformers."""

import json
from pathlib import Path

import pytest
import transformers
from gguf import GGUFReader
from unit.standalone.test_model_shape import QWEN3_4B, made, shape_of

from mint_client.core.tables import shown_bytes
from mint_common.adapters_format import read_base_facts
from mint_common.errors import InvalidField
from services.standalone.adapters.base_import import _smollm2_file
from services.standalone.adapters.bases import tiny_folder
from services.standalone.adapters.model_sizes import read_shape
from services.standalone.core.fleet import (
    RESERVE_BYTES,
    Work,
    engine_share,
    plan_fleet,
    read_fleet,
    trainer_share,
)
from services.standalone.core.refusals import FleetTooSmallError
from services.standalone.core.sizing import needs_of

WORK = Work(dtype="bfloat16", max_rank=16, slots=8, policies=8, context=2048)
SMOLLM2 = transformers.LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
KIMI_K2 = transformers.DeepseekV3Config(
    vocab_size=163840,
    num_attention_heads=64,
    num_key_value_heads=64,
    n_routed_experts=384,
    first_k_dense_replace=1,
)


def test_smollm2s_parameters_are_those_of_its_file() -> None:
    stored = sum(int(tensor.n_elements) for tensor in GGUFReader(_smollm2_file()).tensors)
    assert shape_of(SMOLLM2, "Llama").parameters == stored == 134_515_008


def test_needs_are_bytes_of_weights_cache_slots_and_policies() -> None:
    shape = read_shape(json.loads((tiny_folder() / "config.json").read_text()), place="tiny")
    facts = read_base_facts(tiny_folder())
    needs = needs_of(shape, dtype="float32", max_rank=16)
    lora = 16 * sum(map(sum, facts.modules.values()))
    assert needs.weights == 4 * shape.parameters
    assert needs.kv_token == 4 * 3 * 2 * 64
    assert (needs.slot, needs.resident_policy) == (4 * lora, 16 * lora)


def test_a_4b_base_is_trained_and_served_on_one_gpu_of_80_gb() -> None:
    shape = read_shape(QWEN3_4B, place="config.json")
    planned = plan_fleet(shape, WORK, read_fleet("1x80GB"))
    assert (planned.shared, planned.engines, planned.idle) == (True, 1, 0)
    assert planned.engine.weights == 2 * 4_022_468_096
    assert planned.trainer.weights == planned.engine.weights
    trainer, engine = planned.shares(read_fleet("1x80GB"))
    assert trainer * 80e9 >= planned.trainer.total + RESERVE_BYTES
    assert engine * 80e9 >= planned.engine.total + RESERVE_BYTES
    assert planned.free_bytes > 30e9


@pytest.mark.parametrize(
    ("folder", "name", "config"),
    [("kimi-k2", "DeepseekV3", KIMI_K2), ("glm-5", "GlmMoeDsa", transformers.GlmMoeDsaConfig())],
)
def test_a_trillion_weights_are_those_of_transformers_model(
    folder: str, name: str, config: transformers.PretrainedConfig
) -> None:
    file = Path(__file__).parents[3] / "tools/configs" / folder / "config.json"
    shape = read_shape(json.loads(file.read_text()), place=folder)
    sizes = {path: parameter.numel() for path, parameter in made(config, name).named_parameters()}
    assert shape.parameters == sum(sizes.values())
    assert shape.expert_parameters == sum(size for path, size in sizes.items() if ".mlp.experts." in path)
    assert trainer_share(shape, WORK, 128).weights < 80e9
    engine = engine_share(shape, WORK, 64)
    assert engine.layout == "tensor 8 x pipeline 8"
    assert engine.weights == 2 * shape.parameters // 64


def test_tensor_parallel_splits_a_or_b_of_an_adapter_and_keys_by_their_heads() -> None:
    shape = read_shape(QWEN3_4B, place="config.json")
    whole, half = (engine_share(shape, WORK, devices) for devices in (1, 2))
    assert half.adapters > whole.adapters / 2
    by_output = 36 * (2560 * 5 + (4096 + 2 * 1024 + 2 * 9728) // 2)
    by_input = 36 * ((4096 + 9728) // 2 + 2 * 2560)
    assert half.adapters == 8 * 16 * 2 * (by_output + by_input)
    assert half.moving == whole.moving / 2
    assert engine_share(shape, WORK, 64).kv_token == -(-whole.kv_token // 64)


@pytest.mark.parametrize(
    ("fleet", "problem"),
    [
        ("1x24GB", "a trainer takes 1 of its devices and an engine 1, so that 2 would do"),
        ("2x6GB", "a trainer fits on no number of its devices: even one of 4096 holds"),
    ],
)
def test_a_fleet_that_is_too_small_is_told_what_would_do(fleet: str, problem: str) -> None:
    shape = read_shape(QWEN3_4B, place="config.json")
    with pytest.raises(FleetTooSmallError, match=f"{fleet} is too small: {problem}"):
        plan_fleet(shape, WORK, read_fleet(fleet))


@pytest.mark.parametrize("text", ["", "8", "0x80GB", "8x80", "8x80GiB", "-1x80GB", "8x80GB "])
def test_what_is_no_fleet_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="64x80GB"):
        read_fleet(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (7, "7 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (999_700, "1 MB"),
        (8.04e9, "8.04 GB"),
        (2.1e15, "2,100 TB"),
    ],
)
def test_bytes_are_shown_with_a_unit(count: float, shown: str) -> None:
    assert shown_bytes(count) == shown
