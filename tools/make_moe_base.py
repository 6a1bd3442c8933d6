"""Make a tiny Qwen3 base with experts, for tests and benches; it is too big to ship and quick to make."""

import json
import shutil
from pathlib import Path

import msgspec
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from mint_common.adapters_format import BASE_FILE, BaseFacts
from services.standalone.adapters.base_description import describe_base

TINY = Path(__file__).parents[1] / "bases" / "tiny"
WIDTH = 64


def make_moe_base(folder: Path, *, experts: int, layers: int = 2, expert_width: int = 64) -> BaseFacts:
    """Make a base whose router and answers are not degenerate, with the tokenizer of `tiny`.

    vLLM's kernels want widths in multiples of 32.
    """
    torch.manual_seed(experts)
    vocab_size = json.loads((TINY / "config.json").read_bytes())["vocab_size"]
    config = Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=128,
        moe_intermediate_size=expert_width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=experts,
        num_experts_per_tok=min(8, experts // 4),
        norm_topk_prob=True,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    facts = describe_base(folder, name=f"moe{experts}", max_rank=8)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    return facts
