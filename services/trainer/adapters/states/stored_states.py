"""Training states from storage: sums of checkpoints' LoRA weights, and published revisions."""

import asyncio
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts, fetch_manifest
from mint_common.adapters_format.relayout import packed_again
from mint_common.adapters_format.storage import AdapterSource
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AdapterInvalid, BlobCorrupt, BlobMissing
from mint_common.events import LoraSpec
from mint_common.training import CheckpointRecord
from services.trainer.adapters.states.training_state import (
    TrainingState,
    new_state,
    read_state,
    write_state,
)
from services.trainer.core.refusals import CheckpointLost, RevisionForeign


class BlobStates:
    """Training states from storage."""

    def __init__(self, blobs: Blobs, facts: BaseFacts) -> None:
        self._blobs = blobs
        self._facts = facts

    async def mix(
        self, lora: LoraSpec, records: Sequence[CheckpointRecord], coefficients: Sequence[float]
    ) -> bytes:
        """Return a training checkpoint of that shape with the sum of the checkpoints' LoRA weights.

        One source is in memory at a time. Sampler checkpoints serve as well as training checkpoints. Raises
        CheckpointLost when one cannot be read, or has another shape.
        """
        total: Tensor | None = None
        for record, coefficient in zip(records, coefficients, strict=True):
            leaf = await self._leaf(lora, record)
            total = coefficient * leaf if total is None else total.add_(leaf, alpha=coefficient)
        assert total is not None, "a mixture has parts"
        return await asyncio.to_thread(_write, self._facts, lora, total)

    async def at(self, revision: RevisionRef, lora: LoraSpec, data: bytes, *, resets_moments: bool) -> bytes:
        """Return a checkpoint with the revision's weights and the step of ``data``, and its moments or none.

        Raises RevisionForeign when the revision is not of this LoRA shape or its bytes cannot be read.
        """
        try:
            weights = await fetch_weights(self._blobs, revision.manifest)
            return await asyncio.to_thread(
                graft_weights, self._facts, lora, data, weights, resets_moments=resets_moments
            )
        except (AdapterInvalid, BlobCorrupt, BlobMissing, ValueError) as error:
            raise RevisionForeign(digest=revision.digest, problem=str(error)) from error

    async def _leaf(self, lora: LoraSpec, record: CheckpointRecord) -> Tensor:
        try:
            if record.kind == "training":
                data = await self._blobs.get(record.claim)
            else:
                data = await fetch_weights(self._blobs, record.claim)
            return await asyncio.to_thread(_read, self._facts, lora, record.kind, data)
        except (AdapterInvalid, BlobCorrupt, BlobMissing, ValueError) as error:
            raise CheckpointLost(uri=record.claim.uri, problem=str(error)) from error


def _read(facts: BaseFacts, lora: LoraSpec, kind: str, data: bytes) -> Tensor:
    if kind == "training":
        state = read_state(facts, lora, data)
    else:
        state = new_state(facts, lora)
        _put_weights(state, data)
    return state.lora.leaf.detach().double()


def _write(facts: BaseFacts, lora: LoraSpec, total: Tensor) -> bytes:
    state = new_state(facts, lora)
    own = state.lora.leaf.detach().clone()
    state.lora.leaf.detach().copy_(total)
    _fill_unused(state, own)
    return write_state(state)


async def fetch_weights(blobs: AdapterSource, manifest: Claim) -> bytes:
    """Return the weights of a stored export. Raises AdapterInvalid, BlobCorrupt, BlobMissing."""
    proof = (await fetch_manifest(blobs, manifest)).files[WEIGHTS_FILE]
    uri = f"{manifest.uri.rpartition('/')[0]}/{WEIGHTS_FILE}"
    return await blobs.get(Claim(uri=uri, sha256=proof.sha256, size_bytes=proof.size_bytes))


def graft_weights(
    facts: BaseFacts, lora: LoraSpec, data: bytes, weights: bytes, *, resets_moments: bool = False
) -> bytes:
    """Return a checkpoint with an export's weights. Raises ValueError when they don't fit.

    A state that was never stepped counts the weights as its first step, of which AdamW has no moments.
    """
    state = read_state(facts, lora, data)
    state.step = max(1, state.step)
    if resets_moments:
        state.moments, state.moment_steps = {}, 0
    own = state.lora.leaf.detach().clone()
    _put_weights(state, weights)
    _fill_unused(state, own)
    return write_state(state)


def _fill_unused(state: TrainingState, own: Tensor) -> None:
    """Give ranks whose A and B are zeros their A of another leaf: they would never have a gradient."""
    layout, leaf = state.lora.layout, state.lora.leaf.detach()
    views = {
        (part.site.name, part.half): view for part, view in zip(layout.parts, layout.cut(leaf), strict=True)
    }
    for part, rows in zip(layout.parts, layout.cut(own), strict=True):
        if part.half == "A":
            a, b = views[part.site.name, "A"], views[part.site.name, "B"]
            unused = ~a.any(dim=-1) & ~b.any(dim=-2)
            a.copy_(torch.where(unused[..., None], rows, a))


def _put_weights(state: TrainingState, weights: bytes) -> None:
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
        packed = packed_again(sites, rank=state.lora.rank, tensors=arrays)
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
