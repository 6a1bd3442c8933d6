"""Training states made from what is stored: sums of checkpoints' LoRA weights, and published revisions."""

import asyncio
from collections.abc import Sequence

from torch import Tensor

from mint_common.adapters_format import BaseFacts
from mint_common.blobs.port import Blobs
from mint_common.claims import RevisionRef
from mint_common.errors import AdapterInvalid, BlobCorrupt, BlobMissing
from mint_common.events import LoraSpec
from mint_common.training import CheckpointRecord
from services.trainer.adapters.states.revisions import fetch_weights, graft_weights, put_weights
from services.trainer.adapters.states.training_state import new_state, read_state, write_state
from services.trainer.core.refusals import CheckpointLost, RevisionForeign


class BlobStates:
    """`StoredStates` of a base."""

    def __init__(self, blobs: Blobs, facts: BaseFacts) -> None:
        self._blobs = blobs
        self._facts = facts

    async def mix(
        self, lora: LoraSpec, records: Sequence[CheckpointRecord], coefficients: Sequence[float]
    ) -> bytes:
        """Return a training checkpoint with the sum. One source is in memory at a time."""
        total: Tensor | None = None
        for record, coefficient in zip(records, coefficients, strict=True):
            leaf = await self._leaf(lora, record)
            total = coefficient * leaf if total is None else total.add_(leaf, alpha=coefficient)
        assert total is not None, "a mixture has parts"
        return await asyncio.to_thread(_write, self._facts, lora, total)

    async def at(self, revision: RevisionRef, lora: LoraSpec, data: bytes) -> bytes:
        """Return a checkpoint with the revision's weights."""
        try:
            weights = await fetch_weights(self._blobs, revision.manifest)
            return await asyncio.to_thread(graft_weights, self._facts, lora, data, weights)
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
        put_weights(state, data)
    return state.lora.leaf.detach().double()


def _write(facts: BaseFacts, lora: LoraSpec, total: Tensor) -> bytes:
    state = new_state(facts, lora)
    state.lora.leaf.detach().copy_(total)
    return write_state(state)
