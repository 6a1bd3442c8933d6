"""A real config made small for a probe: fewer layers, narrower ones, fewer experts, shorter windows.

What decides how a layer computes stays: its kind, its heads' width, multipliers, caps, ropes, latent ranks.
"""

from collections.abc import Mapping
from typing import Any

from mint_common.adapters_format.base_facts import PICKED_KEYS

Config = Mapping[str, Any]  # a `config.json`

WINDOW = 16
CHUNK = 128
"""vLLM's CPU attention takes chunks of whole blocks of its cache, which are so many tokens."""
_HEADS, _MHA_HEADS, _PER_GROUP = 2, 4, 2
_EXPERTS, _PICKED, _GROUPS = 8, 2, 2
_VOCAB = 512
_MULTIPLE = 64
_MAX_INNER = 512
_LEAST_WIDTH = 256
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_AS_WIDE = ("conv_dim", "block_dim", "conv_dim_out")
"""Keys of LFM2's configs that are the hidden size once more."""
_PATTERN = "hybrid_override_pattern"
"""A letter for each layer, of Nemotron-H."""
_QUANTIZED = ("quantization_config", "compression_config")
_OWN_DEPTHS = ("num_hidden_layers", "depth", "num_layers")


def text_of(config: Config) -> Config:
    """Return the part that describes the text model: of one that sees images, a part of its own."""
    found: Config = config.get("text_config") or config
    return found


def layers_of(text: Config) -> int:
    """Return the number of layers, 0 where the config leaves it to its class."""
    listed = text.get("layers_block_type") or text.get(_PATTERN) or ()
    return int(text.get("num_hidden_layers") or len(listed))


def shortened(config: Config, *, layers: int) -> dict[str, Any]:
    """Return a config of its first layers, unquantized, its windows and its vocabulary of a few tokens."""
    changed = {key: value for key, value in config.items() if key not in _QUANTIZED}
    text = _shortened_text(text_of(config), layers)
    for name in ("vision_config", "audio_config"):
        if isinstance(config.get(name), Mapping):
            changed[name] = _one_layer(config[name])
    return {**changed, "text_config": text} if "text_config" in config else {**changed, **text}


def _shortened_text(text: Config, layers: int) -> dict[str, Any]:
    total, shared = layers_of(text), int(text.get("num_kv_shared_layers") or 0)
    short: dict[str, Any] = {key: value for key, value in text.items() if key not in _QUANTIZED}
    for key, value in text.items():
        if (isinstance(value, list) or key == _PATTERN) and len(value) == total:
            # Layers at the end that share the keys of those before: as many of them as of the others.
            short[key] = value[:layers] * (2 if shared else 1)
        elif isinstance(value, Mapping) and value and all(str(each).isdigit() for each in value):
            short[key] = {number: one for number, one in value.items() if int(number) < layers}
    if "num_hidden_layers" in text or not total:
        short["num_hidden_layers"] = layers * (2 if shared else 1)
    if shared:
        short["num_kv_shared_layers"] = layers
    limits = {
        "sliding_window": WINDOW,
        "index_topk": WINDOW,
        "vocab_size": _VOCAB,
        "vocab_size_per_layer_input": _VOCAB,
        "num_nextn_predict_layers": 0,
    }
    short |= {key: min(limit, text[key]) for key, limit in limits.items() if isinstance(text.get(key), int)}
    if text.get("attention_chunk_size"):
        short["attention_chunk_size"] = CHUNK
    if isinstance(short.get("pad_token_id"), int) and short["pad_token_id"] >= short.get(
        "vocab_size", _VOCAB
    ):
        short["pad_token_id"] = 0
    return short


def _one_layer(tower: Config) -> dict[str, Any]:
    one = {key: 1 for key in _OWN_DEPTHS if isinstance(tower.get(key), int)}
    if tower.get("deepstack_visual_indexes"):
        return {**tower, **one, "deepstack_visual_indexes": [0]}
    return {**tower, **one}


def narrowed(config: Config) -> dict[str, Any]:
    """Return a config of narrower layers, as far as its keys tell how wide they are."""
    text = text_of(config)
    hidden = text.get("hidden_size")
    if not isinstance(hidden, int):
        return dict(config)
    narrow = _narrowed_text(text, hidden)
    changed = dict(config)
    tower = config.get("vision_config")
    if isinstance(tower, Mapping) and tower.get("out_hidden_size") == hidden:
        changed["vision_config"] = {**tower, "out_hidden_size": narrow["hidden_size"]}
    return {**changed, "text_config": narrow} if "text_config" in config else {**changed, **narrow}


def _narrowed_text(text: Config, hidden: int) -> dict[str, Any]:
    narrow = {**text, **_heads(text)}
    width = _width(text, narrow, hidden)
    narrow["hidden_size"] = width
    for key, value in text.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if "intermediate_size" in key or key == "block_ff_dim":
            narrow[key] = min(value, _MAX_INNER, _rounded(value * width / hidden))
        elif key in _AS_WIDE and value == hidden:
            narrow[key] = width
    return narrow | _routing(text) | _states(text, width)


def _heads(text: Config) -> dict[str, Any]:
    heads = text.get("num_attention_heads")
    if not isinstance(heads, int) or not heads:
        return {}
    grouped = text.get("num_key_value_heads") or heads
    if grouped == heads:
        fewer = {"num_attention_heads": min(heads, _MHA_HEADS)}
        return fewer | (
            {"num_key_value_heads": fewer["num_attention_heads"]} if "num_key_value_heads" in text else {}
        )
    groups = min(grouped, _HEADS)
    return {"num_key_value_heads": groups, "num_attention_heads": groups * min(heads // grouped, _PER_GROUP)}


def _width(text: Config, narrow: Config, hidden: int) -> int:
    """Return the hidden size: that of all heads, where it decides how wide a head is."""
    heads = text.get("num_attention_heads")
    if not heads:
        return min(hidden, _rounded(_LEAST_WIDTH))
    if text.get("head_dim") or text.get("kv_lora_rank"):
        return min(hidden, _rounded(max(_LEAST_WIDTH, (text.get("head_dim") or 0) * 2)))
    return hidden // int(heads) * int(narrow["num_attention_heads"])


def _routing(text: Config) -> dict[str, int]:
    """Return fewer experts, of which as few are picked that some are not."""
    limits = dict.fromkeys(_EXPERT_COUNTS, _EXPERTS) | dict.fromkeys(PICKED_KEYS, _PICKED)
    limits |= {"n_group": _GROUPS, "num_expert_group": _GROUPS, "topk_group": 1}
    found = {key: min(limit, text[key]) for key, limit in limits.items() if isinstance(text.get(key), int)}
    if found.get("n_group") == 1 and "topk_group" in found:
        found["topk_group"] = 1
    return found


def _states(text: Config, width: int) -> dict[str, int]:
    """Return fewer heads of delta nets and Mamba layers."""
    found: dict[str, int] = {}
    keys, values = text.get("linear_num_key_heads"), text.get("linear_num_value_heads")
    if keys and values:
        found["linear_num_key_heads"] = min(keys, _HEADS)
        found["linear_num_value_heads"] = found["linear_num_key_heads"] * (values // keys)
    if text.get("mamba_n_heads") and isinstance(text.get("mamba_d_head"), int):
        found["mamba_n_heads"] = int(text.get("mamba_expand", 2)) * width // text["mamba_d_head"]
    if text.get("mamba_num_heads") and text.get("n_groups"):
        groups = min(text["n_groups"], _GROUPS)
        found |= {"n_groups": groups, "mamba_num_heads": min(text["mamba_num_heads"], 2 * groups)}
    return found


def _rounded(width: float) -> int:
    return max(_MULTIPLE, round(width / _MULTIPLE) * _MULTIPLE)
