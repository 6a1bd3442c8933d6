"""Proximal policy optimisation."""

from torch import Tensor

from services.trainer.core.losses.clipping import BOUNDS, clipped_surrogate, ratio_of
from services.trainer.core.losses.loss import TokenInputs, TokenLoss


def ppo(tokens: TokenInputs) -> Tensor:
    """Return the clipped surrogate, -sum_t min(r_t A_t, clip(r_t) A_t): Schulman et al. 2017, eq. 7."""
    return clipped_surrogate(ratio_of(tokens), tokens)


PPO = TokenLoss(
    needed=("logprobs", "advantages"),
    optional=BOUNDS,
    optional_config=BOUNDS,
    formula=ppo,
)
