"""DeepSeek's latent attention on CPU vLLM."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from mint_common.adapters_format import BaseFacts, describe_base
from tests.integration.loader.moe_base import (
    Served,
    load_base,
    logprobs_under,
    max_difference,
    running_engine,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TINY = Path(__file__).parents[3] / "bases" / "tiny"
TOLERANCE = 1e-4
SIZES = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 24,
    # The one size of heads that vLLM's CPU backend has latent attention for.
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}
ROUTING = {
    "DeepseekV2": {"topk_method": "greedy", "scoring_func": "softmax"},
    "DeepseekV3": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
}
"""Of real checkpoints' config.json; transformers leaves it out of one that it writes."""


def make_base(name: str, folder: Path) -> BaseFacts:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.08)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **ROUTING[name]}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, folder)
    return describe_base(folder, name=name.lower(), max_rank=8)


@pytest.mark.parametrize("name", list(ROUTING))
async def test_a_base_serves_what_transformers_computes(name: str, tmp_path: Path) -> None:
    facts = make_base(name, tmp_path)
    async with running_engine(tmp_path, facts) as engine:
        found = await asyncio.gather(*(Served(engine, tmp_path, facts).sample(None, seed=n) for n in (1, 2)))
    assert max_difference(logprobs_under(load_base(tmp_path), found), found) < TOLERANCE
