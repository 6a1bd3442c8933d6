"""Lines as tensors: what the model reads, who sees whom, and where the targets are.

B = lines of a micro-batch, L = its longest line, T = its target tokens.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.core.packing import PackedSequence

_PROMPT, _PADDING = 0, -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """A micro-batch; mask and positions are None where plain causal attention says the same.

    ``where_T`` is None where every position is a target, in order.

    Lines are padded on the right, where causal attention hides the padding from every real token.
    """

    inputs_BL: Tensor
    positions_BL: Tensor | None
    mask_B1LL: Tensor | None
    where_T: Tensor | None
    targets_T: Tensor


def model_inputs(lines: Sequence[PackedSequence]) -> ModelInputs:
    """Return the tensors of some lines."""
    longest = max(line.length for line in lines)
    inputs: list[list[int]] = []
    # The number of the row that a position belongs to, and its distance from the line's first token.
    owners: list[list[int]] = []
    positions: list[list[int]] = []
    where: list[int] = []
    for index, line in enumerate(lines):
        prompt, start = len(line.prompt), index * longest
        tokens, owner, position = list(line.prompt), [_PROMPT] * prompt, list(range(prompt))
        for number, row in enumerate(line.rows, start=1):
            where += (
                start + prompt - 1,
                *range(start + len(tokens), start + len(tokens) + len(row.tokens) - 1),
            )
            tokens += row.tokens[:-1]
            owner += [number] * (len(row.tokens) - 1)
            position += range(prompt, prompt + len(row.tokens) - 1)
        padding = longest - line.length
        inputs.append(tokens + [0] * padding)
        owners.append(owner + [_PADDING] * padding)
        positions.append(position + list(range(line.length, longest)))
    shared = any(len(line.rows) > 1 for line in lines)
    return ModelInputs(
        inputs_BL=torch.tensor(inputs),
        positions_BL=torch.tensor(positions) if shared else None,
        mask_B1LL=_mask(torch.tensor(owners)) if shared else None,
        where_T=torch.tensor(where),
        targets_T=torch.tensor([token for line in lines for row in line.rows for token in row.tokens]),
    )


def _mask(owner_BL: Tensor) -> Tensor:
    """Return 0 where a position sees another, the lowest float where it does not."""
    longest = owner_BL.shape[1]
    sees_BLL = (owner_BL[:, None, :] == owner_BL[:, :, None]) | (owner_BL[:, None, :] == _PROMPT)
    sees_BLL &= torch.ones(longest, longest, dtype=torch.bool).tril()
    mask_BLL = torch.zeros(sees_BLL.shape).masked_fill(~sees_BLL, torch.finfo(torch.float32).min)
    return mask_BLL[:, None]
