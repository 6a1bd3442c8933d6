"""Direct reward optimisation."""
# ruff: noqa: N806  # tensors carry their shape in their name

from torch import Tensor

from services.trainer.core.losses.loss import TokenInputs, TokenLoss


def dro(tokens: TokenInputs) -> Tensor:
    """Return -sum_t (lp_t A_t - beta / 2 (lp_t - old_t)^2).

    Richemond et al. 2024 (arXiv 2405.19107): a quadratic pull to the sampler takes the place of the ratio.
    """
    drift_T = tokens.logprobs_T - tokens.needed("logprobs")
    gained_T = tokens.logprobs_T * tokens.needed("advantages")
    return -(gained_T - 0.5 * tokens.config["beta"] * drift_T.square()).sum()


DRO = TokenLoss(
    needed=("logprobs", "advantages"),
    needed_config=("beta",),
    formula=dro,
)
