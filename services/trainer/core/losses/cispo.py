"""Clipped importance sampling whose clipped tokens keep their gradient."""
# ruff: noqa: N806  # tensors carry their shape in their name

from torch import Tensor

from services.trainer.core.losses.clipping import BOUNDS, clipped, ratio_of
from services.trainer.core.losses.loss import TokenInputs, TokenLoss


def cispo(tokens: TokenInputs) -> Tensor:
    """Return -sum_t sg(clip(r_t)) lp_t A_t: MiniMax-M1, Chen et al. 2025 (arXiv 2506.13585)."""
    weights_T = clipped(ratio_of(tokens).detach(), tokens)
    return -(weights_T * tokens.logprobs_T * tokens.needed("advantages")).sum()


CISPO = TokenLoss(
    needed=("logprobs", "advantages"),
    optional=BOUNDS,
    optional_config=BOUNDS,
    formula=cispo,
)
