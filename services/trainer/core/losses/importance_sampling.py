"""The policy gradient, corrected for a sampler with older weights."""

from torch import Tensor

from services.trainer.core.losses.clipping import ratio_of
from services.trainer.core.losses.loss import TokenInputs, TokenLoss


def importance_sampling(tokens: TokenInputs) -> Tensor:
    """Return -sum_t r_t A_t: Schulman et al. 2017 (arXiv 1707.06347), eq. 6, before any clipping."""
    return -(ratio_of(tokens) * tokens.needed("advantages")).sum()


IMPORTANCE_SAMPLING = TokenLoss(
    needed=("logprobs", "advantages"),
    formula=importance_sampling,
)
