"""One policy's resumable state, AdamW included, its bytes and its export.

Invariant: a state read back continues bit for bit as the one that was written would have.
"""

import time
from dataclasses import dataclass, field

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mint_common.adapters_format import PACKED, AdapterFiles, build_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId
from services.trainer.adapters.lora.tensors import Layout, LoraTensors, folded_arrays, new_lora
from services.trainer.core.operations import ExportLineage
from services.trainer.core.policy_work import StateExport

MOMENTS = ("exp_avg", "exp_avg_sq")
_GRADIENT = "grad."
_MOMENT_STEPS = "moment_steps"


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """LoRA tensors, AdamW's moments of them and the number of steps taken.

    The moments have ``moment_steps`` of these, which corrects their bias; there are none before the first.
    """

    lora: LoraTensors
    moments: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    moment_steps: int = 0


def new_state(facts: BaseFacts, spec: LoraSpec) -> TrainingState:
    """Return the state of a policy that was never stepped. Raises LoraInvalid."""
    return TrainingState(lora=new_lora(facts, spec))


def fresh_moments(leaf: Tensor) -> dict[str, Tensor]:
    """Return the moments of a leaf before its first step."""
    return {name: torch.zeros_like(leaf, requires_grad=False) for name in MOMENTS}


def write_state(state: TrainingState) -> bytes:
    """Return the checkpoint of a state."""
    return write_parked(park_state(state))


def write_parked(parked: "ParkedState", *, with_gradient: bool = False) -> bytes:
    """Return the checkpoint: adapter, both moments and the step, as safetensors.

    It includes the gradient if requested and present.
    """
    tensors: dict[str, Tensor] = {"step": torch.tensor(parked.step, dtype=torch.int64)}
    if parked.moment_steps != parked.step:
        tensors[_MOMENT_STEPS] = torch.tensor(parked.moment_steps, dtype=torch.int64)
    prefixes = ["", *(f"{name}." for name in MOMENTS)]
    if with_gradient:
        prefixes.append(_GRADIENT)
    for prefix, leaf in zip(prefixes, parked.buffer.split(parked.layout.size), strict=False):
        views = parked.layout.cut(leaf)
        for part, view in zip(parked.layout.parts, views, strict=True):
            tensors[f"{prefix}{part.name}"] = view
    return bytes(safetensors.torch.save(tensors))


def read_state(facts: BaseFacts, spec: LoraSpec, data: bytes) -> TrainingState:
    """Return the state that a checkpoint holds. Raises ValueError when it is not one of this policy."""
    state = new_state(facts, spec)
    leaf = state.lora.leaf
    moments = fresh_moments(leaf)
    try:
        tensors = safetensors.torch.load(data)
        state.step = int(tensors["step"])
        state.moment_steps = int(tensors.get(_MOMENT_STEPS, tensors["step"]))
        targets = [("", leaf.detach()), *((f"{name}.", moments[name]) for name in MOMENTS)]
        if any(name.startswith(_GRADIENT) for name in tensors):
            leaf.grad = torch.zeros_like(leaf, requires_grad=False)
            targets.append((_GRADIENT, leaf.grad))
        for prefix, target in targets:
            views = state.lora.layout.cut(target)
            for part, view in zip(state.lora.layout.parts, views, strict=True):
                _copy(tensors[f"{prefix}{part.name}"], view)
    except (KeyError, safetensors.SafetensorError) as error:
        raise ValueError(f"not a checkpoint of this policy: {error}") from error
    if state.moment_steps:
        state.moments = moments
    return state


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy into a leaf of torch's own alignment, on which the last bit of a matrix product can depend."""
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(
            f"{tuple(source.shape)} {source.dtype} where {tuple(target.shape)} {target.dtype} is due"
        )
    target.copy_(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedState:
    """A state off the device: leaf, both moments and, if a step is due, the gradient, in one buffer."""

    layout: Layout
    scale: float
    step: int
    moment_steps: int
    buffer: Tensor

    @property
    def size_bytes(self) -> int:
        """Return the bytes that a swap moves."""
        return int(self.buffer.nbytes)

    @property
    def lora(self) -> LoraTensors:
        """Return its LoRA tensors, which are not to be trained on."""
        return LoraTensors(layout=self.layout, scale=self.scale, leaf=self.buffer.split(self.layout.size)[0])


def park_state(state: TrainingState) -> ParkedState:
    """Return a copy of a state for the host's memory."""
    leaf = state.lora.leaf
    moments = state.moments or fresh_moments(leaf)
    pieces = [leaf.detach(), *(moments[name] for name in MOMENTS)]
    if leaf.grad is not None:
        pieces.append(leaf.grad)
    whole = torch.cat(pieces)
    # Pinned, of torch's cache of such memory: else both ways go through another copy and block.
    buffer = torch.empty_like(whole, device="cpu", pin_memory=whole.is_cuda).copy_(whole)
    return ParkedState(
        layout=state.lora.layout,
        scale=state.lora.scale,
        step=state.step,
        moment_steps=state.moment_steps,
        buffer=buffer,
    )


def resume_state(parked: ParkedState, device: torch.device | None = None) -> TrainingState:
    """Return the state that was parked, bit for bit."""
    pieces = parked.buffer.split(parked.layout.size)
    leaf, *others = (piece.to(device, non_blocking=True, copy=True) for piece in pieces)
    lora = LoraTensors(layout=parked.layout, scale=parked.scale, leaf=leaf.requires_grad_())
    state = TrainingState(lora=lora, step=parked.step, moment_steps=parked.moment_steps)
    if parked.moment_steps:
        state.moments = dict(zip(MOMENTS, others, strict=False))
    if len(others) > len(MOMENTS):
        leaf.grad = others[-1]
    return state


def state_export(
    facts: BaseFacts, policy_id: PolicyId, parked: ParkedState, after: ExportLineage, *, layout: str = PACKED
) -> StateExport:
    """Return the export of a state; the layout is that of experts."""
    started = time.perf_counter()
    tensors = folded_arrays(parked.lora)

    def build(parent: Digest | None) -> AdapterFiles:
        return build_adapter(
            facts=facts,
            policy_id=policy_id,
            step=parked.step,
            parent=parent,
            rank=parked.layout.rank,
            tensors=tensors,
            layout=layout,
        )

    adapter, parent = build(after.digest), after.digest
    if adapter.digest == after.digest:
        # The same bytes once more: no revision is its own parent.
        adapter, parent = build(after.parent), after.parent
    seconds = time.perf_counter() - started
    return StateExport(step=parked.step, parent=parent, adapter=adapter, seconds=seconds)
