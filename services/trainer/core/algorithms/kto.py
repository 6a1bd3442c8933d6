"""Kahneman-Tversky optimisation: answers that are wanted or not, without pairs."""

import torch
from torch import Tensor

from services.trainer.core.algorithms.algorithm import TrainingAlgorithm, beta
from services.trainer.core.batch import build_kto_batch
from services.trainer.core.losses.loss import Comparison, Config, PreferenceLoss


def kto(compared: Comparison, config: Config) -> Tensor:
    """Return sum_n (1 - sigmoid(beta (w_n - z))) + sum_m (1 - sigmoid(beta (z - u_m))).

    Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7 and 8, with both kinds of equal weight. w and u are the
    sums over a wanted and an unwanted answer's tokens of (policy's - base's) log-probability. z estimates
    KL(policy || base), which carries no gradient: the mean of the same over mismatched answers, or 0 where
    that is negative, and where there are none.
    """
    weight, divergence = config["beta"], _divergence(compared)
    wanted = 1 - torch.sigmoid(weight * (compared.wanted_N - divergence))
    unwanted = 1 - torch.sigmoid(weight * (divergence - compared.unwanted_M))
    return wanted.sum() + unwanted.sum()


def _divergence(compared: Comparison) -> Tensor:
    moved = compared.mismatched_K.detach()
    return (moved.mean() if len(moved) else moved.sum()).clamp(min=0)


def _measures(compared: Comparison, config: Config) -> dict[str, float]:
    """Return the rewards of both kinds of answers, of those that there are, and the estimate of the KL."""
    weight = config["beta"]
    kinds = {"chosen_reward": compared.wanted_N, "rejected_reward": compared.unwanted_M}
    found = {f"{name}:mean": weight * float(moved.mean()) for name, moved in kinds.items() if len(moved)}
    if len(found) == len(kinds):
        found["preference_margin:mean"] = found["chosen_reward:mean"] - found["rejected_reward:mean"]
    return {**found, "kl:mean": float(_divergence(compared))}


KTO = PreferenceLoss(
    aggregation="answer_mean",
    formula=kto,
    measures=_measures,
)

TRAINING = TrainingAlgorithm(loss=KTO, build_batch=build_kto_batch, config=beta)
