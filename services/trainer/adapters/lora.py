"""LoRA over a frozen model: linears with an exchangeable slot, and the tensors that go into it.

y = W x + (alpha / r) B A x, Hu et al. 2021 (arXiv 2106.09685); numbers equal to PEFT's (tests/unit/trainer).
One policy is in the slots at a time: PEFT's own switching slows with every adapter that exists.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.events import LoraSpec
from services.trainer.core.refusals import LoraInvalid


class LoraLinear(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A frozen linear; with a slot filled it adds the slot's low-rank update."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.slot: tuple[Tensor, Tensor, float] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the base linear, plus the update if there is one."""
        y: Tensor = self.base(x)
        if self.slot is None:
            return y
        a_RI, b_OR, scale = self.slot
        return y + nn.functional.linear(nn.functional.linear(x, a_RI), b_OR) * scale


@dataclass(slots=True, kw_only=True)
class LoraTensors:
    """One policy's A and B by module name: float32 leaves that an optimizer steps in place."""

    rank: int
    scale: float
    pairs: dict[str, tuple[Tensor, Tensor]]

    def parameters(self) -> list[Tensor]:
        """Return all leaves in a fixed order."""
        return [tensor for _, pair in sorted(self.pairs.items()) for tensor in pair]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield PEFT's name of each leaf with it, in the order of `parameters`."""
        for module, (a_RI, b_OR) in sorted(self.pairs.items()):
            yield f"base_model.model.{module}.lora_A.weight", a_RI
            yield f"base_model.model.{module}.lora_B.weight", b_OR


def new_lora(facts: BaseFacts, spec: LoraSpec) -> LoraTensors:
    """Return fresh tensors: A kaiming-uniform (a = sqrt 5) from the spec's seed, B zero, as PEFT does.

    Raises LoraInvalid when the spec does not fit the base.
    """
    if not 1 <= spec.rank <= facts.max_rank:
        raise LoraInvalid(field="rank", problem=f"{spec.rank} is outside 1..{facts.max_rank}")
    unknown = sorted(set(spec.targets) - set(facts.targets))
    if unknown or not spec.targets:
        problem = f"{unknown or 'none'} given, the base has {list(facts.targets)}"
        raise LoraInvalid(field="targets", problem=problem)
    generator = torch.Generator().manual_seed(spec.seed)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for module, (width_in, width_out) in sorted(facts.modules.items()):
        if module.rpartition(".")[2] not in spec.targets:
            continue
        a_RI = torch.empty(spec.rank, width_in)
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=generator)
        b_OR = torch.zeros(width_out, spec.rank)
        pairs[module] = (a_RI.requires_grad_(), b_OR.requires_grad_())
    return LoraTensors(rank=spec.rank, scale=spec.alpha / spec.rank, pairs=pairs)


def folded_arrays(tensors: LoraTensors) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors as an export has them: alpha / r multiplied into B, so that nobody scales twice."""
    return {
        name: (leaf.detach() * (tensors.scale if ".lora_B." in name else 1.0)).numpy()
        for name, leaf in tensors.named()
    }


def wrap_linears(model: nn.Module, facts: BaseFacts) -> dict[str, LoraLinear]:
    """Replace every linear that may carry LoRA; without a filled slot the model computes as before."""
    wrapped: dict[str, LoraLinear] = {}
    for name in facts.modules:
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        wrapped[name] = LoraLinear(getattr(parent, leaf))
        setattr(parent, leaf, wrapped[name])
    return wrapped


@contextmanager
def applied(linears: Mapping[str, LoraLinear], tensors: LoraTensors) -> Iterator[None]:
    """Put a policy into the slots for the length of the block."""
    for module, (a_RI, b_OR) in tensors.pairs.items():
        linears[module].slot = (a_RI, b_OR, tensors.scale)
    try:
        yield
    finally:
        for linear in linears.values():
            linear.slot = None
