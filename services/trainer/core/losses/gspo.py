"""Group sequence policy optimisation. T = target tokens, S = sequences."""
# ruff: noqa: N806  # tensors carry their shape in their name

import torch
from torch import Tensor

from services.trainer.core.losses.clipping import BOUNDS, clipped_surrogate
from services.trainer.core.losses.loss import TokenInputs, TokenLoss

_MASK = "sequence_ratio_mask"


def gspo(tokens: TokenInputs) -> Tensor:
    """Return the clipped surrogate with one ratio per sequence, and its gradient spread over the tokens.

    s = mean over the sequence's masked-in tokens of (sg(lp) - old), r_t = exp(s + lp_t - sg(lp_t)):
    GSPO-token of Zheng et al. 2025 (arXiv 2507.18071), as Tinker has it. The mask is above 0 where a token
    counts for the ratio.
    """
    sampled_T, sequence_T = tokens.needed("logprobs"), tokens.numbers_T()
    mask_T = tokens.optional(_MASK, missing=1.0)
    counts_T = torch.ones_like(sampled_T) > 0 if mask_T is None else mask_T > 0
    frozen_T = tokens.logprobs_T.detach()
    drift_T = torch.where(counts_T, frozen_T - sampled_T, torch.zeros_like(frozen_T))
    count_S = torch.bincount(sequence_T, weights=counts_T.to(frozen_T.dtype)).clamp(min=1)
    mean_S = torch.bincount(sequence_T, weights=drift_T) / count_S
    return clipped_surrogate(torch.exp(mean_S[sequence_T] + tokens.logprobs_T - frozen_T), tokens)


GSPO = TokenLoss(
    needed=("logprobs", "advantages"),
    optional=(_MASK, *BOUNDS),
    optional_config=BOUNDS,
    formula=gspo,
)
