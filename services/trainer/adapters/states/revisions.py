"""The weights of stored exports, and training states that go on from them."""

import numpy as np
import safetensors
import safetensors.torch
import torch

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts, fetch_manifest
from mint_common.adapters_format.relayout import packed_again
from mint_common.adapters_format.storage import AdapterSource
from mint_common.claims import Claim
from mint_common.events import LoraSpec
from services.trainer.adapters.states.training_state import TrainingState, read_state, write_state


async def fetch_weights(blobs: AdapterSource, manifest: Claim) -> bytes:
    """Return the weights of a stored export. Raises AdapterInvalid, BlobCorrupt, BlobMissing."""
    proof = (await fetch_manifest(blobs, manifest)).files[WEIGHTS_FILE]
    uri = f"{manifest.uri.rpartition('/')[0]}/{WEIGHTS_FILE}"
    return await blobs.get(Claim(uri=uri, sha256=proof.sha256, size_bytes=proof.size_bytes))


def graft_weights(facts: BaseFacts, lora: LoraSpec, data: bytes, weights: bytes) -> bytes:
    """Return a checkpoint with an export's weights. Raises ValueError when they don't fit.

    A state that was never stepped counts the weights as its first step.
    """
    state = read_state(facts, lora, data)
    state.step = max(1, state.step)
    put_weights(state, weights)
    return write_state(state)


def put_weights(state: TrainingState, weights: bytes) -> None:
    """Give a state an export's weights. Raises ValueError when they don't fit."""
    try:
        tensors = safetensors.torch.load(weights)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a file of tensors: {error}") from error
    parts = state.lora.layout.parts
    if not {part.name for part in parts} <= tensors.keys():
        # It may be of another layout of experts.
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        sites = [part.site for part in parts if part.half == "A"]
        packed = packed_again(sites, rank=state.rank, tensors=arrays)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in packed.items()}
    missing = {part.name for part in parts} ^ {name for name in tensors if not name.startswith("pad.")}
    if missing:
        raise ValueError(f"it and the policy's LoRA differ in {len(missing)} tensors, such as {min(missing)}")
    with torch.no_grad():
        for part, view in zip(parts, state.lora.layout.cut(state.lora.leaf.detach()), strict=True):
            source = tensors[part.name]
            if source.shape != view.shape:
                problem = f"{part.name} is {tuple(source.shape)}, the policy's {tuple(view.shape)}"
                raise ValueError(problem)
            # An export has the scale in B: see `folded_arrays`.
            view.copy_(source.float() / (state.lora.scale if part.half == "B" else 1.0))
