"""Tiny models of the families that people train, unlike the tame defaults of transformers' configs.

Windows and chunks are shorter than a prompt of 40 tokens, both kinds of layer are there, multipliers and caps
are as in real checkpoints, and no parameter is all zeros or all ones. `save_tiny` writes one, with the
tokenizer of the base `tiny`.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

TINY = Path(__file__).parents[1] / "bases" / "tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WINDOW = 16
STD = 0.1
SIZES: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": STD,
}
HEADS = {"head_dim": 32}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    **HEADS,
}
SCALED = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
    "logits_scaling": 8.0,
}
GROUPED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    **GROUPED,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    # The one size of heads that vLLM's CPU backend has latent attention for.
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}
SPARSE = {**LATENT, "index_topk": 8, "index_head_dim": 128, "index_n_heads": 16}
LONG_ROPE = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * WINDOW,
        "long_factor": [1.0 + 0.5 * i for i in range(WINDOW)],
        "original_max_position_embeddings": 64,
    },
}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 64, "n_groups": 1, "ssm_state_size": 32, **HEADS}
SIGLIP = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family's tiny model is made, and what its checkpoints' config.json says beyond its class."""

    config: Callable[[], PreTrainedConfig]
    written: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def _of(config: type[PreTrainedConfig], *parts: Mapping[str, Any], **keys: Any) -> Family:
    merged = {**SIZES, **{key: value for part in parts for key, value in part.items()}, **keys}
    return Family(config=lambda: config(**merged))


def _routed(config: type[PreTrainedConfig], sizes: Mapping[str, Any], **written: Any) -> Family:
    return Family(config=lambda: config(**{**SIZES, **sizes}), written=written)


def _mamba(config: type[PreTrainedConfig], layers: list[str], **keys: Any) -> Family:
    sizes = {key: value for key, value in SIZES.items() if key != "num_hidden_layers"}
    return Family(config=lambda: config(**{**sizes, **MAMBA, "layers_block_type": layers, **keys}))


def _bfloat16(family: Family) -> Family:
    """vLLM's delta nets on a CPU take no other dtype."""
    return Family(config=family.config, written=family.written, dtype="bfloat16")


def _wrapper(config: type[PreTrainedConfig], text: Family, vision: PreTrainedConfig, **keys: Any) -> Family:
    """A model that sees images, around a text model; its image tokens are ids that no text has."""

    def make() -> PreTrainedConfig:
        written = text.config().to_dict()
        return config(text_config=written, vision_config=vision.to_dict(), **keys)

    return Family(config=make, dtype=text.dtype)


GEMMA3 = _of(hf.Gemma3TextConfig, SLIDING, HEADS, query_pre_attn_scalar=32)
GEMMA4 = _of(
    hf.Gemma4TextConfig,
    SLIDING,
    HEADS,
    global_head_dim=64,
    hidden_size_per_layer_input=32,
    vocab_size_per_layer_input=SIZES["vocab_size"],
)
MISTRAL = _of(hf.MistralConfig, sliding_window=WINDOW)
QWEN3_5 = _bfloat16(_of(hf.Qwen3_5TextConfig, DELTA))
QWEN3_5_MOE = _bfloat16(_of(hf.Qwen3_5MoeTextConfig, DELTA, EXPERTS, shared_expert_intermediate_size=64))
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": SIZES["hidden_size"],
    "num_position_embeddings": 16,
}
QWEN_TOKENS = {
    "image_token_id": 259,
    "video_token_id": 260,
    "vision_start_token_id": 261,
    "vision_end_token_id": 262,
}

FAMILIES: dict[str, Family] = {
    # Taken before there was a table.
    "llama": _of(hf.LlamaConfig),
    "qwen3": _of(hf.Qwen3Config, HEADS, tie_word_embeddings=True),
    "qwen3_moe": _of(hf.Qwen3MoeConfig, HEADS, EXPERTS, norm_topk_prob=True, decoder_sparse_step=1),
    "deepseek_v2": _routed(hf.DeepseekV2Config, LATENT, topk_method="greedy", scoring_func="softmax"),
    "deepseek_v3": _routed(hf.DeepseekV3Config, LATENT, topk_method="noaux_tc", scoring_func="sigmoid"),
    "glm4_moe_lite": _routed(hf.Glm4MoeLiteConfig, LATENT, topk_method="noaux_tc"),
    "deepseek_v32": _routed(hf.DeepseekV32Config, SPARSE, topk_method="noaux_tc", scoring_func="sigmoid"),
    "glm_moe_dsa": _routed(hf.GlmMoeDsaConfig, SPARSE, topk_method="noaux_tc", scoring_func="sigmoid"),
    # Full attention, usual names.
    "qwen2": _of(hf.Qwen2Config, tie_word_embeddings=True),
    "olmo2": _of(hf.Olmo2Config),
    "smollm3": _of(hf.SmolLM3Config, no_rope_layers=[1, 0]),
    "ministral3": _of(hf.Ministral3Config, HEADS),
    "glm4": _of(hf.Glm4Config, HEADS, attention_bias=True),
    # Windows.
    "qwen2_window": _of(hf.Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "mistral": MISTRAL,
    "gemma2": _of(
        hf.Gemma2Config,
        SLIDING,
        HEADS,
        query_pre_attn_scalar=32,
        final_logit_softcapping=5.0,
        attn_logit_softcapping=5.0,
    ),
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "exaone4": _of(hf.Exaone4Config, SLIDING),
    "olmo3": _of(hf.Olmo3Config, SLIDING),
    "cohere2": _of(hf.Cohere2Config, SLIDING),
    # Scaled heads, fused names, routers.
    "granite": _of(hf.GraniteConfig, SCALED),
    "phi3": _of(hf.Phi3Config),
    "phi3_longrope": _of(hf.Phi3Config, LONG_ROPE),
    "qwen2_moe": _of(hf.Qwen2MoeConfig, EXPERTS, shared_expert_intermediate_size=64),
    "mixtral": _of(hf.MixtralConfig, LOCAL_EXPERTS),
    "glm4_moe": _of(hf.Glm4MoeConfig, HEADS, GROUPED),
    # Other kinds of layers and experts.
    "qwen3_next": _bfloat16(_of(hf.Qwen3NextConfig, DELTA, EXPERTS, shared_expert_intermediate_size=64)),
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5_MOE,
    "gpt_oss": _of(hf.GptOssConfig, SLIDING, HEADS, LOCAL_EXPERTS),
    "gemma4_moe": _of(
        hf.Gemma4TextConfig,
        SLIDING,
        HEADS,
        global_head_dim=32,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=64,
    ),
    "granite4": _of(
        hf.GraniteMoeHybridConfig,
        SCALED,
        LOCAL_EXPERTS,
        layer_types=["linear_attention", "full_attention"],
        shared_intermediate_size=64,
        mamba_n_heads=4,
        mamba_d_head=64,
        mamba_n_groups=1,
        mamba_d_state=32,
        mamba_expand=2,
        position_embedding_type=None,
    ),
    "lfm2": _of(hf.Lfm2Config, layer_types=["conv", "full_attention"], conv_dim=128, block_dim=128),
    "lfm2_moe": _of(
        hf.Lfm2MoeConfig, EXPERTS, layer_types=["conv", "full_attention"], conv_dim=128, num_dense_layers=1
    ),
    "llama4": _of(
        hf.Llama4TextConfig,
        HEADS,
        num_hidden_layers=4,
        # vLLM wants a multiple of its blocks.
        attention_chunk_size=2 * WINDOW,
        num_local_experts=4,
        num_experts_per_tok=1,
        intermediate_size_mlp=256,
        interleave_moe_layer_step=2,
    ),
    "nemotron_h": _mamba(hf.NemotronHConfig, ["linear_attention", "mlp", "full_attention", "mlp"]),
    # Trained or refused: this vLLM does not serve them on a CPU, or not with LoRA.
    "nemotron_h_moe": _mamba(
        hf.NemotronHConfig,
        ["linear_attention", "moe", "full_attention", "mlp"],
        moe_intermediate_size=64,
        moe_shared_expert_intermediate_size=64,
        n_routed_experts=4,
        num_experts_per_tok=2,
    ),
    "minimax_m2": _of(
        hf.MiniMaxM2Config,
        HEADS,
        LOCAL_EXPERTS,
        rotary_dim=32,
        scoring_func="sigmoid",
        use_qk_norm=True,
        use_routing_bias=True,
    ),
    "kimi_linear": _of(
        hf.KimiLinearConfig,
        HEADS,
        LOCAL_EXPERTS,
        num_key_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        linear_num_heads=4,
        linear_head_dim=32,
        kv_lora_rank=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        moe_intermediate_size=64,
    ),
    "gpt2": Family(
        config=lambda: hf.GPT2Config(
            vocab_size=SIZES["vocab_size"],
            n_positions=256,
            n_embd=128,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=STD,
        )
    ),
    # Models that see images.
    "qwen3_5_images": _wrapper(
        hf.Qwen3_5Config, QWEN3_5, hf.Qwen3_5Config(vision_config=QWEN_VISION).vision_config, **QWEN_TOKENS
    ),
    "qwen3_5_moe_images": _wrapper(
        hf.Qwen3_5MoeConfig,
        QWEN3_5_MOE,
        hf.Qwen3_5MoeConfig(vision_config=QWEN_VISION).vision_config,
        **QWEN_TOKENS,
    ),
    "gemma3_images": _wrapper(
        hf.Gemma3Config,
        GEMMA3,
        hf.SiglipVisionConfig(**SIGLIP, image_size=28, patch_size=14),
        mm_tokens_per_image=4,
        boi_token_index=259,
        eoi_token_index=260,
        image_token_index=261,
    ),
    "gemma4_images": _wrapper(
        hf.Gemma4Config,
        GEMMA4,
        hf.Gemma4VisionConfig(**SIGLIP, num_key_value_heads=2, head_dim=32, position_embedding_size=64),
        boi_token_id=259,
        eoi_token_id=260,
        image_token_id=261,
    ),
    "mistral3_images": _wrapper(
        hf.Mistral3Config,
        MISTRAL,
        hf.PixtralVisionConfig(**SIGLIP, image_size=28, patch_size=14),
        image_token_index=259,
    ),
}

ROUTED = frozenset(
    (
        *(
            "qwen3_moe",
            "qwen2_moe",
            "mixtral",
            "glm4_moe",
            "gpt_oss",
            "gemma4_moe",
            "granite4",
            "lfm2_moe",
            "llama4",
        ),
        *("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "minimax_m2"),
        *("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_images", "nemotron_h_moe", "kimi_linear"),
    )
)
"""The families with routed experts; the loader loads their adapters packed."""


def make_tiny(name: str) -> PreTrainedModel:
    """Return a family's random model, the same at every call, in float32."""
    torch.manual_seed(0)
    config = FAMILIES[name].config()
    images = type(config) not in AutoModelForCausalLM._model_mapping or hasattr(config, "vision_config")
    model = (AutoModelForImageTextToText if images else AutoModelForCausalLM).from_config(config)
    with torch.no_grad():
        for weight in [*model.parameters(), *model.buffers()]:
            if weight.dim() > 0 and weight.is_floating_point() and weight.min() == weight.max():
                weight.add_(torch.randn_like(weight), alpha=STD)
    return model.eval()


def save_tiny(folder: Path, name: str) -> Path:
    """Write a family's tiny model as a folder that `mint base add` takes, and return the folder."""
    family = FAMILIES[name]
    model = make_tiny(name).to(getattr(torch, family.dtype))
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **family.written}, indent=1))
    for file in TOKENIZER_FILES:
        shutil.copy(TINY / file, folder / file)
    return folder
