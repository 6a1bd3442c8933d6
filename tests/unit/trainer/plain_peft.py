"""The same computations the plain way: PEFT's layers, one unpadded row at a time, all logits."""

from collections.abc import Iterator

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.core.batch import Row


def peft_twin(model: PreTrainedModel, spec: LoraSpec, tensors: LoraTensors) -> peft.PeftModel:
    """Return PEFT's model with the same weights."""
    config = peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets))
    twin = peft.get_peft_model(model, config).eval()
    state = {name: view.clone() for name, view in tensors.named()}
    loaded = peft.set_peft_model_state_dict(twin, state)
    assert not loaded.unexpected_keys
    return twin


def row_logprobs(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """Return log-probabilities the plain way: one unpadded row, all logits."""
    ids = torch.tensor([(*row.prompt, *row.tokens)])
    logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
    return logprobs[len(row.prompt) - 1 :].gather(-1, torch.tensor(row.tokens)[:, None])[:, 0]


def gradients_of(tensors: LoraTensors) -> Iterator[tuple[str, Tensor]]:
    """Yield the name in an adapter file of each part, with what was accumulated since the last step."""
    leaf, layout = tensors.leaf, tensors.layout
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return zip((part.name for part in layout.parts), layout.cut(gradient), strict=True)
