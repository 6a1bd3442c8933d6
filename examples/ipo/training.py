"""How the trainer computes IPO. N = pairs."""
# ruff: noqa: N806  # tensors carry their shape in their name

from torch import Tensor

from services.trainer.core.algorithms.algorithm import TrainingAlgorithm, beta
from services.trainer.core.batch import build_dpo_batch
from services.trainer.core.losses.loss import Comparison, Config, PreferenceLoss


def ipo(compared: Comparison, config: Config) -> Tensor:
    """Return sum_n (c_n - d_n - 1 / (2 beta))^2: Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    c and d are the sums over the chosen and the rejected answer's tokens of (policy's - base's)
    log-probability.
    """
    target = 1 / (2 * config["beta"])
    return ((compared.wanted_N - compared.unwanted_M - target) ** 2).sum()


def _measures(compared: Comparison, _config: Config) -> dict[str, float]:
    margin_N = compared.wanted_N - compared.unwanted_M
    return {
        "preference_accuracy:mean": float((margin_N > 0).float().mean()),
        "preference_margin:mean": float(margin_N.mean()),
    }


TRAINING = TrainingAlgorithm(
    loss=PreferenceLoss(aggregation="pair_mean", formula=ipo, measures=_measures),
    build_batch=build_dpo_batch,
    config=beta,
)
