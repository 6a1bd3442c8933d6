"""The decoder within a model, and what its layers allow, read from transformers' own config and modules."""

from dataclasses import dataclass

import torch
from torch import nn

from mint_common.adapters_format.layer_kinds import CHUNKED, FULL, MASKED, SLIDING
from mint_common.errors import SettingInvalid
from services.trainer.core.layer_rules import LayerRules, Window, plan_rules


@dataclass(frozen=True, slots=True)
class Decoder:
    """The module that computes hidden states of tokens, its layers, and the name of the model's child
    that it is, or is within."""

    body: nn.Module
    layers: nn.ModuleList
    child: str


def find_decoder(model: nn.Module) -> Decoder:
    """Return the decoder of a causal model, or of the text side of a wrapper. Raises SettingInvalid."""
    embedding = model.get_input_embeddings()
    count = model.config.get_text_config().num_hidden_layers
    bodies = (
        (name, module)
        for name, module in model.named_modules()
        if any(child is embedding for child in module.children())
    )
    for name, body in bodies:
        for child in body.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return Decoder(body, child, name.partition(".")[0])
    problem = f"{type(model).__name__} has no {count} layers beside its embedding: not trainable"
    raise SettingInvalid(name="MINT_TRAINER_BASE_DIR", problem=problem)


def choose_attention(model: nn.Module) -> None:
    """Compute attention in a way that leaves nothing out: sdpa drops the cap on a layer's scores."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


def rules_of(model: nn.Module, decoder: Decoder) -> LayerRules:
    """Return what the layers of a model allow. One with several kinds of them is called, on two tokens."""
    config = model.config.get_text_config()
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    # As `transformers.masking_utils.create_masks_for_generate` reads a config.
    kinds = getattr(config, "layer_types", None) or [
        SLIDING if window is not None else CHUNKED if chunk is not None else FULL
    ]
    windows = {SLIDING: Window(window)} if window else {}
    windows |= {CHUNKED: Window(chunk, chunked=True)} if chunk else {}
    floor_scale = getattr(config, "floor_scale", None) if _scales_by_index(config) else None
    return plan_rules(
        kinds,
        windows=windows,
        by_kind=len(set(kinds)) > 1
        and MASKED.issuperset(kinds)
        and _takes_masks_by_kind(decoder.body, kinds),
        runs_along=any(isinstance(module, nn.Conv1d) for module in decoder.layers.modules()),
        indexed_up_to=None if floor_scale is None else floor_scale - 1,
    )


def _takes_masks_by_kind(body: nn.Module, kinds: list[str]) -> bool:
    """Return whether a decoder takes a mask for each kind of layer; others fail to read it as a tensor."""
    ids = torch.arange(2, device=body.device)[None]
    try:
        with torch.no_grad():
            body(input_ids=ids, attention_mask=dict.fromkeys(kinds), use_cache=False)
    except AttributeError as error:
        if "'dict' object" not in str(error):
            raise
        return False
    return True


def _scales_by_index(config: object) -> bool:
    """Return whether queries are scaled by their index in the line (Llama 4, from `floor_scale` on)."""
    return bool(getattr(config, "attn_temperature_tuning", False))
