"""DeepSeek's latent attention on CPU vLLM: base and adapters serve what transformers computes.

But for `kv_b_proj`, which vLLM folds into other products when it loads the base: LoRA on it is refused.
"""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file

from mint_common.adapters_format import BASE_FILE, WEIGHTS_FILE, BaseFacts
from mint_common.errors import AdapterInvalid
from services.standalone.adapters.base_description import describe_base
from tests.integration.loader.moe_base import (
    Served,
    load_base,
    logprobs_under,
    max_difference,
    merged,
    random_adapter,
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
    "Glm4MoeLite": {"topk_method": "noaux_tc"},
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
    facts = describe_base(folder, name=name.lower(), max_rank=8)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    return facts


@pytest.mark.parametrize("name", list(ROUTING))
async def test_base_and_adapters_serve_what_transformers_computes(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    facts = make_base(name, base)
    kept = {module: size for module, size in facts.modules.items() if not module.endswith(".kv_b_proj")}
    served_facts = replace(facts, modules=kept)
    folders = [random_adapter(served_facts, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    folded = random_adapter(facts, tmp_path / "folded", seed=3)
    async with running_engine(base, facts) as engine:
        served = Served(engine, base, facts)
        with pytest.raises(AdapterInvalid, match="kv_b_proj: engines fold it into other products"):
            await served.load(folded)
        loaded = [await served.load(folder) for folder in folders]
        answers = await asyncio.gather(*(served.sample(adapter) for adapter in [None, *loaded]))
    models = [load_base(base), *(merged(base, served_facts, load_file(f / WEIGHTS_FILE)) for f in folders)]
    for model, one in zip(models, answers, strict=True):
        assert max_difference(logprobs_under(model, [one]), [one]) < TOLERANCE
