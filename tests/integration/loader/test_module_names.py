"""An adapter's names lead to the engine's modules by the tables of vLLM and transformers. No engine."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

torch = pytest.importorskip("torch")
MODELS: list[Any] = []
"""Kept: vLLM remembers what a model lacks by the model's id, which a later one could get."""


def found(kind: str, architecture: str, module: str, *, known: str) -> str:
    """Return the engine's name of a module, for vLLM's class and transformers' config of an architecture."""
    from transformers import CONFIG_MAPPING
    from vllm.model_executor.models.registry import ModelRegistry

    from services.loader.adapters.vllm.module_names import renaming

    mapper = getattr(ModelRegistry.models[architecture].load_model_cls(), "hf_to_vllm_mapper", None)
    model = torch.nn.Module()
    model.config, model.hf_to_vllm_mapper = CONFIG_MAPPING[kind](), mapper
    MODELS.append(model)
    return renaming(SimpleNamespace(model=model, modules={known: None}, packed_modules={}))(module)


@pytest.mark.parametrize(
    ("kind", "architecture", "module", "known"),
    [
        ("llama", "LlamaForCausalLM", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"),
        (
            "mixtral",
            "MixtralForCausalLM",
            "model.layers.1.mlp.experts",
            "model.layers.1.block_sparse_moe.experts",
        ),
        (
            "gpt_oss",
            "GptOssForCausalLM",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.attn.q_proj",
        ),
        (
            "lfm2",
            "Lfm2ForCausalLM",
            "model.layers.1.conv.in_proj",
            "model.layers.1.short_conv.in_proj",
        ),
        (
            "qwen3_5_moe",
            "Qwen3_5MoeForConditionalGeneration",
            "model.layers.1.mlp.experts",
            "language_model.model.layers.1.mlp.experts",
        ),
        (
            "gemma3",
            "Gemma3ForConditionalGeneration",
            "model.language_model.layers.1.mlp.up_proj",
            "language_model.model.layers.1.mlp.up_proj",
        ),
    ],
)
def test_a_name_leads_to_its_module(kind: str, architecture: str, module: str, known: str) -> None:
    assert found(kind, architecture, module, known=known) == known


def test_a_name_that_no_table_knows_is_told_as_it_is() -> None:
    assert found("mixtral", "MixtralForCausalLM", "model.layers.1.other", known="x") == "model.layers.1.other"
