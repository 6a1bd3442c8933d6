"""Tiny models of every architecture that the trainer takes, through transformers, and their facts on disk."""

from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from mint_common.adapters_format import BaseFacts
from mint_common.events import LoraSpec
from services.standalone.adapters.base_description import describe_base

SIZES = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "qk_nope_head_dim": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
# Sixteen index heads: with few, scores tie at zero and which keys win depends on a line's length.
SPARSE = {**LATENT, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 16}
FAMILIES = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
    "Qwen3Moe": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "DeepseekV2": LATENT,
    "DeepseekV3": LATENT,
    "Glm4MoeLite": LATENT,
    "DeepseekV32": SPARSE,
    "GlmMoeDsa": SPARSE,
}


def make_family(name: str, **changes: int | None) -> PreTrainedModel:
    """Return a family's random model, the same at every call."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **FAMILIES[name], **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.05)
    return model


def describe_family(name: str, folder: Path, **changes: int | None) -> BaseFacts:
    """Return the facts of a family's model as an import would find them on disk."""
    make_family(name, **changes).save_pretrained(folder)
    return describe_base(folder, name=name.lower(), max_rank=16)


def everything(facts: BaseFacts, *, rank: int = 4, seed: int = 0) -> LoraSpec:
    """Return a LoRA over every target of a base."""
    return LoraSpec(rank=rank, alpha=2.0 * rank, targets=facts.targets, seed=seed)
