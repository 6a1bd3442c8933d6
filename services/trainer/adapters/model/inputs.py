"""Lines as tensors: input tokens, attention mask, and positions of the targets.

B = lines of a micro-batch, L = its longest line, T = its target positions.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.trainer.core.layer_rules import LayerRules, Window
from services.trainer.core.lines import PADDING, PROMPT, Ints, LineTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """A micro-batch; mask and positions are None where the model's own masks say the same.

    ``mask`` is one ``[B, 1, L, L]`` for all layers, or one for each kind of layer.
    ``where_T`` is None where every position is a target, in order. ``targets`` are ``[T]`` or ``[T, K]``.
    ``temperature_T`` is None where each is 1. ``counts_hits`` asks which targets are the likeliest tokens.

    Lines are padded on the right, where causal attention hides the padding from every real token.
    """

    inputs_BL: Tensor
    positions_BL: Tensor | None
    mask: Tensor | Mapping[str, Tensor] | None
    where_T: Tensor | None
    targets: Tensor
    temperature_T: Tensor | None
    counts_hits: bool


def model_inputs(
    lines: Sequence[LineTokens],
    *,
    width: int,
    rules: LayerRules,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> ModelInputs:
    """Return the tensors of some lines; ``width`` is the greatest of the lines that they are scored with.

    ``dtype`` is that of the model's queries, which a mask has to have.
    """
    longest = max(len(line.token_L) for line in lines)
    where_T = np.concatenate([line.where_T + index * longest for index, line in enumerate(lines)])
    is_whole = np.array_equal(where_T, np.arange(len(lines) * longest))
    shared = any(line.shares_prompt for line in lines)
    positions_BL = mask = None
    if shared:
        # Padding has position 0: the greatest one decides the frequencies of longrope.
        positions_BL = _padded([_positions(line) for line in lines], longest, 0).to(device)
        owner_BL = _padded([_owners(line) for line in lines], longest, PADDING).to(device)
        masks = _masks(owner_BL, positions_BL, rules, dtype)
        mask = masks if rules.by_kind else next(iter(masks.values()))
    return ModelInputs(
        inputs_BL=_padded([line.token_L for line in lines], longest, 0).to(device),
        positions_BL=positions_BL,
        mask=mask,
        where_T=None if is_whole else torch.tensor(where_T, device=device),
        targets=_targets(lines, width).to(device),
        temperature_T=_temperatures(lines, device),
        counts_hits=any(line.counts_hits for line in lines),
    )


def _padded(rows: Sequence[Ints], longest: int, filler: int) -> Tensor:
    padded_BL = np.full((len(rows), longest), filler, np.int64)
    for padded_L, row in zip(padded_BL, rows, strict=True):
        padded_L[: len(row)] = row
    return torch.tensor(padded_BL)


def _positions(line: LineTokens) -> Ints:
    return np.arange(len(line.token_L)) if line.position_L is None else line.position_L


def _owners(line: LineTokens) -> Ints:
    return np.full(len(line.token_L), PROMPT) if line.owner_L is None else line.owner_L


def _targets(lines: Sequence[LineTokens], width: int) -> Tensor:
    """Return the targets, filled up with token 0 where a line has fewer at a position."""
    if lines[0].targets is None:
        return torch.arange(width).expand(sum(len(line.where_T) for line in lines), -1)
    targets = [line.targets for line in lines if line.targets is not None]
    if not width:
        return torch.tensor(np.concatenate(targets))
    filled_TK = np.zeros((sum(map(len, targets)), width), np.int64)
    begin = 0
    for own in targets:
        own_TK = own.reshape(len(own), -1)
        filled_TK[begin : begin + len(own), : own_TK.shape[1]] = own_TK
        begin += len(own)
    return torch.tensor(filled_TK)


def _temperatures(lines: Sequence[LineTokens], device: torch.device | None) -> Tensor | None:
    if all(line.temperature == 1.0 for line in lines):
        return None
    own_T = np.concatenate([np.full(len(line.where_T), line.temperature, np.float32) for line in lines])
    return torch.tensor(own_T, device=device)


def _masks(owner_BL: Tensor, position_BL: Tensor, rules: LayerRules, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return for each kind of layer 0 where a position sees another, the lowest float where it does not."""
    longest = owner_BL.shape[1]
    sees_BLL = (owner_BL[:, None, :] == owner_BL[:, :, None]) | (owner_BL[:, None, :] == PROMPT)
    sees_BLL &= torch.ones(longest, longest, dtype=torch.bool, device=owner_BL.device).tril()
    masks: dict[Window | None, Tensor] = {}
    for window in rules.windows.values():
        if window not in masks:
            within_BLL = sees_BLL if window is None else sees_BLL & _within(window, position_BL)
            mask_BLL = within_BLL.new_zeros(within_BLL.shape, dtype=dtype)
            masks[window] = mask_BLL.masked_fill(~within_BLL, torch.finfo(dtype).min)[:, None]
    return {kind: masks[window] for kind, window in rules.windows.items()}


def _within(window: Window, position_BL: Tensor) -> Tensor:
    """Return which positions a window reaches. Behind a shared prompt a token's place in its line is none."""
    to_BL1, from_B1L = position_BL[:, :, None], position_BL[:, None, :]
    if window.chunked:
        return to_BL1 // window.size == from_B1L // window.size
    return to_BL1 - from_B1L < window.size
