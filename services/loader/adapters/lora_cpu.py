# ruff: noqa: N803, N806  (shape suffixes, see the legend below)
"""The LoRA of linear layers on CPU: one small product per adapter of the step, not one per token.

vLLM's own operations for CPU call a dozen operations for every slice of a layer, several times over every
token's own copy of A and B: half of a step of a small base, and a prompt of 200 tokens copies 200 matrices.
Here a prompt is multiplied at once, where it stands; of single tokens, those of several adapters share one
batched product, and those of one adapter take its matrices without a copy.

Invariant: what a token gets depends on the tokens that share its step by rounding alone, and on Intel's
processors not at all, bit for bit: there a product of many rows and a batched product add up in one order,
those of a few rows or of one matrix in another, so that a run of a few rows is multiplied together with its
neighbours, whose part is thrown away. On AMD's, MKL adds a batched product up in an order of its own.

Written against vLLM 0.32; tests/integration/loader/test_lora_cpu.py compares with vLLM's own operations.

Shapes: T = tokens of the step, P = T and pads, W = rows of a window, G = tokens of short runs, S = slots, R =
rank of the buffers, I and O = a layer's widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_WINDOW = 16
"""Rows from which a product adds up in the order of a batched one, whatever the widths."""

_FEW = 4
"""Rows up to which a run is faster in the batched product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Tokens of one slot that stand together, and the rows around them that are multiplied."""

    begin: int
    end: int
    slot: int
    window: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How a step's tokens are taken.

    ``runs`` are the longer ones; ``pads`` rows of zeros make a window of a step that is too short for one.
    ``short`` says where the other tokens are, two at least: a lone one comes twice; ``slots`` which slot is
    each one's, or the one that is all of theirs.
    """

    runs: tuple[Run, ...]
    pads: int = 0
    short: Tensor | None = None
    slots: Tensor | int = -1
    lone_at: int | None = None


def plan_rows(slots_T: Sequence[int]) -> Rows:
    """Choose for the slots of a step's tokens, -1 for those of the bare base, which are left alone."""
    runs: list[Run] = []
    short: list[int] = []
    begin, last = 0, max(0, len(slots_T) - _WINDOW)
    for slot, same in groupby(slots_T):
        end = begin + sum(1 for _ in same)
        if slot >= 0:
            if end - begin > _FEW:
                first = min(begin, last)
                window = first, max(end, first + _WINDOW)
                runs.append(Run(begin=begin, end=end, slot=slot, window=window))
            else:
                short.extend(range(begin, end))
        begin = end
    pads = max(0, _WINDOW - len(slots_T)) if runs else 0
    if not short:
        return Rows(runs=tuple(runs), pads=pads)
    is_lone = len(short) == 1
    places = short * 2 if is_lone else short
    slots = [slots_T[at] for at in places]
    return Rows(
        runs=tuple(runs),
        pads=pads,
        short=torch.tensor(places),
        slots=slots[0] if len(set(slots)) == 1 else torch.tensor(slots),
        lone_at=short[0] if is_lone else None,
    )


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vllm has no types
    """What a layer with LoRA calls; only linear layers are done differently."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any, here and below: vLLM's signatures
        super().__init__(*args, **kwargs)
        self._rows = Rows(runs=())

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Plan a step, from the adapter of each of its tokens."""
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self.is_prefill = False  # embeddings and logits take each token's index; runs of vLLM's are not made
        slot_of = {number: slot for slot, number in enumerate(lora_index_to_id) if number is not None}
        self._rows = plan_rows([slot_of[number] if number > 0 else -1 for number in mapping.index_mapping])

    def add_lora_linear(  # noqa: PLR0917  # vLLM's signature
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add each token's own B @ A @ x to ``y``, slice by slice."""
        if buffer is not None or scale != 1 or not x.dtype == y.dtype == lora_a_stacked[0].dtype:
            super().add_lora_linear(
                y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, buffer=buffer, **kwargs
            )
            return
        rows = self._rows
        x_PI = torch.nn.functional.pad(x, (0, 0, 0, rows.pads)) if rows.pads else x
        for run in rows.runs:
            first, last = run.window
            x_WI, y_RO, offset = x_PI[first:last], y[run.begin : run.end], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                delta_WO = x_WI.mm(a[run.slot, 0].t()).mm(b[run.slot, 0].t())
                y_RO[:, offset : offset + width] += delta_WO[run.begin - first : run.end - first]
                offset += width
        if rows.short is None:
            return
        x_GI1 = x.index_select(0, rows.short).unsqueeze(-1)
        deltas = [
            _own_products(x_GI1, a, b, rows.slots)
            for a, b in zip(lora_a_stacked, lora_b_stacked, strict=True)
        ]
        delta_GO = deltas[0] if len(deltas) == 1 else torch.cat(deltas, 1)
        if rows.lone_at is not None:
            y[rows.lone_at, : delta_GO.shape[1]] += delta_GO[0]
        else:
            y[:, : delta_GO.shape[1]].index_add_(0, rows.short, delta_GO)


def _own_products(x_GI1: Tensor, a_S1RI: Tensor, b_S1OR: Tensor, slots: Tensor | int) -> Tensor:
    """Return each row times the factors of its own slot."""
    if isinstance(slots, int):
        a_GRI = a_S1RI[slots].expand(len(x_GI1), -1, -1)
        b_GOR = b_S1OR[slots].expand(len(x_GI1), -1, -1)
    else:
        a_GRI, b_GOR = a_S1RI[:, 0].index_select(0, slots), b_S1OR[:, 0].index_select(0, slots)
    return torch.bmm(b_GOR, torch.bmm(a_GRI, x_GI1)).squeeze(-1)


def group_lora() -> None:
    """Make vLLM's CPU platform use it."""
    from vllm.platforms.cpu import CpuPlatform

    name = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
    CpuPlatform.get_punica_wrapper = classmethod(lambda _: name)
