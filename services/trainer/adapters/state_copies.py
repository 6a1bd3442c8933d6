"""What is written of a policy's state while training goes on: its bytes, and its export."""

from mint_common.adapters_format import PACKED, AdapterFiles, build_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.ids import Digest, PolicyId
from services.trainer.adapters.lora import folded_arrays
from services.trainer.adapters.training_state import ParkedState, write_parked
from services.trainer.ports.policies import ExportFrom, StateCopy, StateExport


def state_copy(parked: ParkedState, *, with_gradient: bool) -> StateCopy:
    """Return the bytes of a state, with its gradient if it has one and that is wanted."""
    has_gradient = parked.buffer.numel() > 3 * parked.layout.size
    data = write_parked(parked, with_gradient=with_gradient and has_gradient)
    return StateCopy(step=parked.step, data=data)


def state_export(
    facts: BaseFacts, policy_id: PolicyId, parked: ParkedState, after: ExportFrom, *, layout: str = PACKED
) -> StateExport:
    """Return the export of a state; the layout is that of experts."""
    tensors = folded_arrays(parked.lora)

    def build(parent: Digest | None) -> AdapterFiles:
        return build_adapter(
            facts=facts,
            policy_id=policy_id,
            step=parked.step,
            parent=parent,
            rank=parked.rank,
            tensors=tensors,
            layout=layout,
        )

    adapter = build(after.digest)
    if adapter.digest != after.digest:
        return StateExport(step=parked.step, parent=after.digest, adapter=adapter)
    # The same bytes once more: no revision is its own parent.
    return StateExport(step=parked.step, parent=after.parent, adapter=build(after.parent))
