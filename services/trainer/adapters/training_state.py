"""One policy's resumable state, AdamW included, and its bytes.

Invariant: a state read back continues bit for bit as the one that was written would have.
"""

from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.events import LoraSpec
from services.trainer.adapters.lora import LoraTensors, new_lora

BETAS = (0.9, 0.95)
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """LoRA tensors, their optimizer and the number of steps taken."""

    lora: LoraTensors
    optimizer: torch.optim.AdamW
    step: int


def new_state(facts: BaseFacts, spec: LoraSpec) -> TrainingState:
    """Return the state of a policy that was never stepped. Raises LoraInvalid."""
    lora = new_lora(facts, spec)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=0.0, betas=BETAS, weight_decay=0.0)
    return TrainingState(lora=lora, optimizer=optimizer, step=0)


def write_state(state: TrainingState) -> bytes:
    """Return the checkpoint: adapter, both moments and the step, as safetensors."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(state.step, dtype=torch.int64)}
    for name, leaf in state.lora.named():
        tensors[name] = leaf.detach()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = state.optimizer.state[leaf][moment]
    return bytes(safetensors.torch.save(tensors))


def read_state(facts: BaseFacts, spec: LoraSpec, data: bytes) -> TrainingState:
    """Return the state that a checkpoint holds. Raises ValueError when it is not one of this policy."""
    state = new_state(facts, spec)
    try:
        tensors = safetensors.torch.load(data)
        state.step = int(tensors["step"])
        for name, leaf in state.lora.named():
            _copy(tensors[name], leaf)
            moments = {
                moment: _copy(tensors[f"{moment}.{name}"], torch.empty_like(leaf)) for moment in _MOMENTS
            }
            # AdamW keeps its step as a float tensor per parameter.
            state.optimizer.state[leaf] = {"step": torch.tensor(float(state.step)), **moments}
    except (KeyError, safetensors.SafetensorError) as error:
        raise ValueError(f"not a checkpoint of this policy: {error}") from error
    return state


def _copy(source: Tensor, target: Tensor) -> Tensor:
    """Copy into memory of torch's own alignment, on which the last bit of a matrix product can depend."""
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(
            f"{tuple(source.shape)} {source.dtype} where {tuple(target.shape)} {target.dtype} is due"
        )
    with torch.no_grad():
        return target.copy_(source)
