"""Group-relative policy optimisation, as managed jobs have it. T = target tokens."""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from functools import partial

import torch
from torch import Tensor

from services.trainer.core.algorithms.algorithm import TrainingAlgorithm
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.losses.loss import Config, TokenInputs, TokenLoss
from services.trainer.core.losses.mismatch import truncated_weights, trusted_band
from services.trainer.core.losses.tokens import kl_to_base
from services.trainer.core.mismatch_rules import BAND, TRUNCATED_AT, Mismatch


def grpo(tokens: TokenInputs) -> Tensor:
    """Return -sum_t r_t A_t + kl_coefficient KL(policy || base) with group-relative advantages.

    Shao et al. 2024 (arXiv 2402.03300); the mean over a step's tokens is DAPO's (Yu et al. 2025, arXiv
    2503.14476). With ``truncated_at`` it is -sum_t sg(min(r_t, C)) lp_t A_t instead, REINFORCE with truncated
    importance sampling. Tokens outside the band, and those without a usable route, have no part in that
    term; the KL term acts on every token, as the mean is over every token.
    """
    sampled_T, advantages_T = tokens.needed("logprobs"), tokens.needed("advantages")
    counted_T, trained_T = _counted(tokens, sampled_T), tokens.logprobs_T
    if counted_T is not None:
        # What does not count has ratio 1, whatever it is, and so neither loss nor gradient.
        trained_T = torch.where(counted_T > 0, trained_T, sampled_T)
        advantages_T = advantages_T * counted_T
    loss = -(_gained(trained_T, sampled_T, tokens.config) * advantages_T).sum()
    coefficient = tokens.config.get("kl_coefficient", 0.0)
    return loss + coefficient * _kl(tokens) if coefficient else loss


def _gained(trained_T: Tensor, sampled_T: Tensor, config: Config) -> Tensor:
    if "truncated_at" in config:
        return truncated_weights(trained_T, sampled_T, cap=config["truncated_at"]) * trained_T
    return torch.exp(trained_T - sampled_T)


def _counted(tokens: TokenInputs, sampled_T: Tensor) -> Tensor | None:
    """Return 1 where a token counts, None where all do."""
    if "band_low" not in tokens.config:
        return tokens.routed_T
    in_band_T = _in_band(tokens, sampled_T)
    return in_band_T if tokens.routed_T is None else tokens.routed_T * in_band_T


def _in_band(tokens: TokenInputs, sampled_T: Tensor) -> Tensor:
    low, high = tokens.config["band_low"], tokens.config["band_high"]
    return (trusted_band(tokens.logprobs_T, sampled_T, low=low, high=high) > 0).float()


def _kl(tokens: TokenInputs) -> Tensor:
    assert tokens.base_T is not None, "reads_base"
    return kl_to_base(tokens.logprobs_T, tokens.base_T)


def _measures(tokens: TokenInputs) -> dict[str, float]:
    measures = {}
    if "band_low" in tokens.config:
        in_band_T = _in_band(tokens, tokens.needed("logprobs"))
        measures["distrusted_tokens:sum"] = float((1 - in_band_T).sum())
    if _reads_base(tokens.config):
        measures["kl:mean"] = float(_kl(tokens).detach())
    return measures


def _reads_base(config: Config) -> bool:
    return config.get("kl_coefficient", 0.0) != 0.0


GRPO = TokenLoss(
    aggregation="token_mean",
    needed=("logprobs", "advantages"),
    optional_config=("kl_coefficient", "truncated_at", "band_low", "band_high"),
    formula=grpo,
    measures=_measures,
    reads_base=_reads_base,
)


def _config(kl_coefficient: float, mismatch: Mismatch) -> dict[str, float]:
    rules: dict[Mismatch, dict[str, float]] = {
        "none": {},
        "truncated": {"truncated_at": TRUNCATED_AT},
        "band": {"band_low": BAND[0], "band_high": BAND[1]},
    }
    return {"kl_coefficient": kl_coefficient, **rules[mismatch]}


TRAINING = TrainingAlgorithm(
    loss=GRPO,
    build_batch=build_grpo_batch,
    build_pulled_batch=partial(build_grpo_batch, pulls=True),
    config=_config,
)
