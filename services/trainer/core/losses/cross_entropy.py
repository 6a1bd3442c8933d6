"""Supervised fine-tuning."""

from torch import Tensor

from services.trainer.core.losses.loss import TokenInputs, TokenLoss


def cross_entropy(tokens: TokenInputs) -> Tensor:
    """Return the weighted negative log-likelihood, -sum_t lp_t w_t; without weights each token counts 1.

    With several targets a position, weighted by a teacher's probabilities, it distils: Hinton et al. 2015
    (arXiv 1503.02531).
    """
    weights = tokens.optional("weights", missing=1.0)
    return -(tokens.logprobs_T if weights is None else tokens.logprobs_T * weights).sum()


CROSS_ENTROPY = TokenLoss(
    aggregation="token_mean",
    optional=("weights",),
    formula=cross_entropy,
    is_wide=True,
)
