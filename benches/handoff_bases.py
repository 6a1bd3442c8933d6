"""The bases of the hand-over bench: real small weights, and random ones in shapes that the paper talks of.

Random bases are made once, under out/bases. What is handed over, and how long that takes, does not depend on
what the weights say.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from benches.bases import MADE, TINY, base_folder
from mint_common.adapters_format import BASE_FILE
from services.standalone.adapters.base_description import describe_base

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MAX_RANK = 32


def handoff_folder(name: str) -> Path:
    """Return the folder of a base: ``smollm2``, ``dense600m``, ``moe190m`` or ``dense4b``."""
    return base_folder(name) if name == "smollm2" else _made(name, _RANDOM[name])


def _dense() -> PreTrainedModel:
    """Return the shape of Qwen3-0.6B: 596 M parameters, the embedding tied."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **_ENDS,
    )
    return Qwen3ForCausalLM(config)


def _dense_4b() -> PreTrainedModel:
    """Return the shape of Qwen3-4B: 4.02 G parameters, the embedding tied."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **_ENDS,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def _moe() -> PreTrainedModel:
    """Return a small Qwen3-MoE: 12 layers of 32 experts, 4 of them for each token; 190 M parameters."""
    config = Qwen3MoeConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **_ENDS,
    )
    return Qwen3MoeForCausalLM(config)


_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_RANDOM: dict[str, Callable[[], PreTrainedModel]] = {
    "dense600m": _dense,
    "dense4b": _dense_4b,
    "moe190m": _moe,
}


def _made(name: str, make: Callable[[], PreTrainedModel]) -> Path:
    folder = MADE / name
    if not folder.exists():
        draft = MADE / f".{name}"
        shutil.rmtree(draft, ignore_errors=True)
        torch.manual_seed(0)
        make().save_pretrained(draft)
        for file in _TOKENIZER:
            shutil.copy(TINY / file, draft / file)
        facts = describe_base(draft, name=name, max_rank=MAX_RANK)
        (draft / BASE_FILE).write_bytes(msgspec.json.encode(facts))
        assert json.loads((draft / "config.json").read_bytes())["vocab_size"] == facts.vocab_size
        draft.rename(folder)
    return folder
