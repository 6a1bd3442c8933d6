"""A mixture is the weighted sum of its sources, whichever kind each is."""

from dataclasses import dataclass

import pytest
import torch

from mint_common.adapters_format import AdapterFiles, BaseFacts, store_adapter
from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.training import CheckpointRecord
from services.trainer.adapters.states.stored_states import BlobStates
from services.trainer.adapters.states.training_state import (
    TrainingState,
    new_state,
    park_state,
    read_state,
    state_export,
    write_state,
)
from services.trainer.core.operations import ExportLineage
from services.trainer.core.refusals import CheckpointLost
from tests.testing.blobs_memory import MemoryBlobs

from .conftest import facts_of, random_model

LORA = LoraSpec(rank=3, alpha=32.0, targets=("q_proj", "down_proj"), seed=0)
"""A scale of 32 / 3, which does not cancel exactly."""


@dataclass(slots=True)
class Shelf:
    """Checkpoints in a blob store."""

    facts: BaseFacts
    blobs: MemoryBlobs

    async def keep(self, state: TrainingState, kind: str, name: str) -> CheckpointRecord:
        if kind == "training":
            claim = await self.blobs.put(f"{name}.safetensors", write_state(state))
            revision = None
        else:
            adapter = self._export(state)
            claim = await store_adapter(self.blobs, adapter, export_id=name)
            revision = adapter.digest
        return self._record(kind, name, claim, revision)

    def _export(self, state: TrainingState) -> AdapterFiles:
        after = ExportLineage(digest=None, parent=None)
        return state_export(self.facts, PolicyId("pol"), park_state(state), after).adapter

    def _record(self, kind: str, name: str, claim: Claim, revision: Digest | None) -> CheckpointRecord:
        return CheckpointRecord(
            policy_id=PolicyId("pol"),
            tenant_id=TenantId("ten"),
            kind="training" if kind == "training" else "sampler",
            name=name,
            base=self.facts.name,
            lora=LORA,
            step=1,
            claim=claim,
            revision=revision,
            created_at=0.0,
            expires_at=None,
            is_public=False,
            metadata={},
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(facts_of(random_model("llama")), MemoryBlobs())


def random_state(facts: BaseFacts, seed: int) -> TrainingState:
    state = new_state(facts, LORA)
    state.lora.leaf.detach().copy_(
        torch.randn(state.lora.leaf.shape, generator=torch.Generator().manual_seed(seed))
    )
    return state


@pytest.mark.parametrize("kinds", [("training", "training"), ("sampler", "training"), ("sampler", "sampler")])
async def test_weights_add_up(shelf: Shelf, kinds: tuple[str, str]) -> None:
    states = [random_state(shelf.facts, seed) for seed in (1, 2)]
    records = [
        await shelf.keep(state, kind, f"c{at}")
        for at, (state, kind) in enumerate(zip(states, kinds, strict=True))
    ]
    data = await BlobStates(shelf.blobs, shelf.facts).mix(LORA, records, [0.25, 0.75])
    mixed = read_state(shelf.facts, LORA, data)
    expected = 0.25 * states[0].lora.leaf.double() + 0.75 * states[1].lora.leaf.double()
    torch.testing.assert_close(mixed.lora.leaf.double(), expected, rtol=1e-6, atol=1e-7)
    assert (mixed.step, mixed.moments) == (0, {})


async def test_all_of_one_is_that_one_bit_for_bit(shelf: Shelf) -> None:
    states = [random_state(shelf.facts, seed) for seed in (1, 2)]
    records = [await shelf.keep(state, "training", f"c{at}") for at, state in enumerate(states)]
    data = await BlobStates(shelf.blobs, shelf.facts).mix(LORA, records, [1.0, 0.0])
    assert torch.equal(read_state(shelf.facts, LORA, data).lora.leaf, states[0].lora.leaf)


@pytest.mark.parametrize("kind", ["training", "sampler"])
async def test_a_source_without_bytes_is_lost(shelf: Shelf, kind: str) -> None:
    state = random_state(shelf.facts, 1)
    whole, gone = [await shelf.keep(state, kind, name) for name in ("whole", "gone")]
    await shelf.blobs.delete(gone.claim.uri)
    with pytest.raises(CheckpointLost):
        await BlobStates(shelf.blobs, shelf.facts).mix(LORA, [whole, gone], [0.5, 0.5])
