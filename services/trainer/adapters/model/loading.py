"""A folder's model as transformers has it: the class whose names of modules the base's facts have."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def load_model(folder: Path, *, dtype: torch.dtype, **options: Any) -> nn.Module:  # transformers' own options
    """Load a causal model, or one that sees images besides, to be given none.

    Weights whose values the model wants in float32, such as rotary frequencies, stay so in any ``dtype``.
    """
    # Its own reader knows how transformers writes infinity.
    written: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0]
    # A type that is new in name only, such as kimi_k2, says which class of transformers it has.
    kind = transformers.CONFIG_MAPPING.get(written["model_type"])
    kind = kind or getattr(transformers, written["architectures"][0]).config_class
    is_text = kind.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    maker = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    model: nn.Module = maker.from_pretrained(
        folder,
        config=kind.from_dict({**written, "model_type": kind.model_type}),
        dtype=dtype,
        local_files_only=True,
        **options,
    )
    return model
