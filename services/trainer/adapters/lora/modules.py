"""The base's modules with room for policies: a mix of policies goes through one forward pass.

y = W x + (alpha / r) B A x, Hu et al. 2021 (arXiv 2106.09685); numbers equal to PEFT's (tests/unit/trainer).
The tokens of a pass are in the order of their policies. Each policy adds two matrix products, which are
batched where all have equally many tokens. Every product stays within its own tokens, so nothing of one
policy reaches another's output or gradient.

P = policies of the mix, X = tokens, N = tokens of each policy, R = the largest rank, I and O = widths in
and out.
"""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import SettingInvalid
from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.mixes import WHOLE, Mix


class LoraLinear(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A frozen linear; with a mix applied it adds each policy's low-rank update to that policy's tokens."""

    def __init__(self, base: nn.Linear, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.mix: Mix | None = None
        self.share = WHOLE

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the base linear, plus the update if there is one."""
        x = self.share.enter(x)
        y: Tensor = self.base(x)
        if self.mix is not None and self.name in self.mix.sites:
            y_XO, x_XI = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
            a_PRI, b_POR = self.mix.sites[self.name]
            if self.share is not WHOLE:  # even a slice of everything has a backward that fills and copies
                a_PRI, b_POR = a_PRI[..., self.share.inputs], b_POR[:, self.share.outputs]
            y = _updated(y_XO, x_XI, self.mix, a_PRI, b_POR).view(y.shape)
        return self.share.leave(y)


def _updated(y_XO: Tensor, x_XI: Tensor, mix: Mix, a_PRI: Tensor, b_POR: Tensor) -> Tensor:
    """Return y plus the policies' updates, computed in the dtype of A and B and rounded once."""
    if y_XO.dtype != a_PRI.dtype:
        y_wide_XO, x_wide_XI = y_XO.to(a_PRI.dtype), x_XI.to(a_PRI.dtype)
        return _updated(y_wide_XO, x_wide_XI, mix, a_PRI, b_POR).to(y_XO.dtype)
    policies = len(mix.counts)
    a_PIR, b_PRO = a_PRI.transpose(1, 2), b_POR.transpose(1, 2)
    if mix.uniform and policies > 1:
        y_PNO, x_PNI = (one_XW.view(policies, -1, one_XW.shape[-1]) for one_XW in (y_XO, x_XI))
        low_PNR = torch.bmm(x_PNI, a_PIR) * mix.scale_P[:, None, None]
        return torch.baddbmm(y_PNO, low_PNR, b_PRO)
    # No `grouped_mm`: CUDA's has no kernel for float32 and waits for the device in its place.
    counts = mix.counts if policies > 1 else (len(x_XI),)  # one policy has every token of a pass
    parts = zip(y_XO.split(counts), x_XI.split(counts), mix.scale_P, a_PIR, b_PRO, strict=True)
    updated = [
        torch.addmm(y_NO, torch.mm(x_NI, a_IR) * scale, b_RO) for y_NO, x_NI, scale, a_IR, b_RO in parts
    ]
    return torch.cat(updated) if policies > 1 else updated[0]


Slot = LoraLinear | LoraExperts


def wrap_modules(model: nn.Module, facts: BaseFacts) -> list[Slot]:
    """Replace every module that may carry LoRA; without a mix the model computes as before.

    Raises SettingInvalid where the base's facts are those of another model.
    """
    slots: list[Slot] = []
    for name in (*facts.modules, *facts.experts):
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        module = getattr(parent, leaf)
        if name in facts.experts:
            slots.append(LoraExperts(module, name, facts.experts[name]))
        elif type(module) is nn.Linear:
            slots.append(LoraLinear(module, name))
        else:
            problem = f"{name} is a {type(module).__name__}, which LoRA cannot be added to"
            raise SettingInvalid(name="MINT_TRAINER_BASE_DIR", problem=problem)
        setattr(parent, leaf, slots[-1])
    return slots


@contextmanager
def applied(slots: Sequence[Slot], mix: Mix | None) -> Iterator[None]:
    """Apply a mix to forward passes within the block, None: no policy."""
    for slot in slots:
        slot.mix = mix
    try:
        yield
    finally:
        for slot in slots:
            slot.mix = None
