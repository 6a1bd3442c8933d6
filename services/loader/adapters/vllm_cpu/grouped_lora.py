# ruff: noqa: N803, N806  (shape suffixes, see the legend below)
"""The LoRA of linear layers on CPU: one small product per adapter of the step, not one per token.

vLLM's own operations for CPU call a dozen operations for every slice of a layer, several times over every
token's own copy of A and B: half of a step of a small base, and a prompt of 200 tokens copies 200 matrices.
Here a prompt is multiplied in one product, in place; single tokens of several adapters share one
batched product, and those of one adapter use its matrices without a copy.

Invariant: other tokens of the step affect a token's result only by rounding, and on Intel
processors not at all, bit for bit: there a product of many rows and a batched product add up in one order,
those of a few rows or of one matrix in another, so that a run of a few rows is multiplied together with its
neighbours, whose part is discarded. On AMD's, MKL adds a batched product up in its own order, two to
five times slower: there an adapter's tokens are multiplied separately, unless the adapters are many and
small.

Written against vLLM 0.32; tests/integration/loader/test_lora_cpu.py compares with vLLM's own operations.

Shapes: T = tokens of the step, P = T and pads, W = rows of a window, G = tokens of short runs, S = slots, R =
rank of the buffers, I and O = a layer's widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_WINDOW = 16
"""Rows from which a product adds up in the order of a batched one, whatever the widths."""

_FEW = 4
"""Rows up to which a run is faster in the batched product."""

_ELEMENTS_PER_GROUP = 5000
"""Elements of a factor that AMD's batched product takes in the time of the calls for one group of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive tokens of one slot, and the rows around them that are multiplied too."""

    begin: int
    end: int
    slot: int
    window: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Division of a step's tokens into products.

    ``runs`` are the longer ones; ``pads`` rows of zeros complete the window of a step that is too short for
    one. ``short`` has the places of the other tokens, at least two: a lone one is repeated; ``slots`` is the
    slot of each, or the one of all.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTokens:
    """All tokens of one slot; a slice if they are consecutive."""

    slot: int
    rows: slice | Tensor


def plan_groups(slots_T: Sequence[int]) -> tuple[SlotTokens, ...]:
    """Gather the tokens of each slot, but for -1."""
    rows_of: dict[int, list[int]] = {}
    for at, slot in enumerate(slots_T):
        if slot >= 0:
            rows_of.setdefault(slot, []).append(at)
    return tuple(
        SlotTokens(
            slot=slot,
            rows=slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] < len(rows) else torch.tensor(rows),
        )
        for slot, rows in rows_of.items()
    )


@cache
def adds_up_alike() -> bool:
    """Return whether a batched product and one of many rows add up in one order on this processor."""
    generator = torch.Generator().manual_seed(0)
    x_WI = torch.randn(_WINDOW, 512, generator=generator)
    a_RI = torch.randn(32, 512, generator=generator)
    batched = torch.bmm(a_RI.expand(_WINDOW, -1, -1), x_WI.unsqueeze(-1)).squeeze(-1)
    return bool(torch.equal(batched, x_WI.mm(a_RI.t())))


def are_batched(factor: Tensor, *, rows: int, groups: int) -> bool:
    """Return whether a batched product of the rows takes less time than one product for each group, on AMD.

    The factor's last two dimensions are those of each row's own.
    """
    elements = int(factor.shape[-1] * factor.shape[-2])
    return rows * elements < _ELEMENTS_PER_GROUP * (groups - 1)


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vllm has no types
    """The LoRA operations of a layer; only linear layers differ from vLLM's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any, here and below: vLLM's signatures
        super().__init__(*args, **kwargs)
        self._rows, self._groups = Rows(runs=()), tuple[SlotTokens, ...]()

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
        slots_T = [slot_of[number] if number > 0 else -1 for number in mapping.index_mapping]
        self._rows = plan_rows(slots_T)
        self._groups = () if adds_up_alike() else plan_groups(slots_T)

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
        if adds_up_alike() or self._are_batched(lora_a_stacked[0]):
            self._add_in_batches(y, x, lora_a_stacked, lora_b_stacked, output_slices)
            return
        for group in self._groups:
            x_GI, offset = x[group.rows], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                low_GR, b_RO = x_GI.mm(a[group.slot, 0].t()), b[group.slot, 0].t()
                y_TO = y[:, offset : offset + width]
                if isinstance(group.rows, slice):
                    y_TO[group.rows].addmm_(low_GR, b_RO)
                else:
                    y_TO.index_add_(0, group.rows, low_GR.mm(b_RO))
                offset += width

    def _are_batched(self, factor: Tensor) -> bool:
        rows = 0 if self._rows.short is None else len(self._rows.short)
        return are_batched(factor, rows=rows, groups=len(self._groups) - len(self._rows.runs))

    def _add_in_batches(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        output_slices: tuple[int, ...],
    ) -> None:
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
