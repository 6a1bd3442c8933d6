"""A folder's model as transformers has it, of the class that its config belongs to."""

from pathlib import Path
from typing import Any  # transformers has no types

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def load_model(folder: Path, *, dtype: torch.dtype, **further: Any) -> nn.Module:
    """Return the causal language model of a folder, or the model that sees images around it."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    is_text = type(config) in AutoModelForCausalLM._model_mapping  # noqa: SLF001  # no public way
    kind = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    # `dtype=` keeps what a model wants in float32, such as rotary frequencies; `.to(dtype)` would not.
    model: nn.Module = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **further)
    return model
