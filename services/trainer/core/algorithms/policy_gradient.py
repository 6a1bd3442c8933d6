"""Group-relative policy gradients of managed jobs: GRPO and its relatives. T = target tokens."""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mint_common.events.policy_gradient import PolicyGradient
from services.trainer.core.algorithms.algorithm import GradientTraining, TrainingAlgorithm
from services.trainer.core.algorithms.surrogates import SURROGATES, Ratios
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.losses.loss import Config, TokenInputs, TokenLoss
from services.trainer.core.losses.mismatch import truncated_weights, trusted_band
from services.trainer.core.losses.tokens import kl_to_base
from services.trainer.core.mismatch_rules import BAND, TRUNCATED_AT, Mismatch

SAMPLER_PULL = 1e-3
"""DPPO's weight of (lp - q)^2, prime-rl's default."""


def token_loss(gradient: PolicyGradient) -> TokenLoss:
    """Return the loss of a policy gradient."""
    reads_base = _has_kl if gradient.kl == "loss" else lambda _config: False
    return TokenLoss(
        aggregation=gradient.aggregation,
        needed=("logprobs", "advantages"),
        optional=("weights", "teacher"),
        optional_config=_CONFIG,
        formula=partial(policy_gradient, gradient),
        measures=partial(_measures, gradient),
        reads_base=reads_base,
        rewards_kl=gradient.advantage
        if gradient.kl == "reward" and gradient.advantage != "teacher"
        else None,
    )


def policy_gradient(gradient: PolicyGradient, tokens: TokenInputs) -> Tensor:
    """Return -sum_t w_t g_t A_t + kl_coefficient sum_t w_t v_t KL_t(policy || base), with group-relative A_t.

    Shao et al. 2024 (arXiv 2402.03300), with g_t of `surrogates`. The weights w_t are 1, or 1 over the tokens
    of a token's episode: then the mean over episodes is GRPO's own; the mean over a step's tokens is DAPO's
    (Yu et al. 2025, arXiv 2503.14476), a constant divisor Dr. GRPO's (Liu et al. 2025, arXiv 2503.20783).
    ``sampler_pull`` adds its multiple of sum_t w_t (lp_t - q_t)^2. Tokens outside the band, and those without
    a usable route, have no part but in the KL to the base, as the mean is over every token.

    With a teacher, A_t = log-probability of the teacher - sg(lp_t): then sum_t r_t A_t has the gradient of
    -KL(policy || teacher) on the policy's own samples, on-policy distillation (Agarwal et al. 2023,
    arXiv 2306.13649; token by token as prime-rl's ``opd`` and tinker-cookbook's distillation have it).

    v_t = sg(min(r_t, ``kl_truncated_at``)) corrects the KL for tokens that the policy did not sample: without
    the limit sum_t r_t k3_t is DeepSeek-V3.2's unbiased estimate (arXiv 2512.02556), whose gradient
    r_t d_t grad(lp_t) this has too. It is 1 for tokens that do not count, and without the number.
    """
    ratios, weights_T = _ratios(tokens), tokens.optional("weights", missing=1.0)
    gained_T, _ = SURROGATES[gradient.loss](ratios)
    loss = -_sum(gained_T * ratios.advantages_T, weights_T)
    if pull := tokens.config.get("sampler_pull", 0.0):
        loss = loss + pull * _sum((ratios.trained_T - ratios.sampled_T) ** 2, weights_T)
    if gradient.kl == "loss" and _has_kl(tokens.config):
        loss = loss + tokens.config["kl_coefficient"] * _kl(tokens, ratios)
    return loss


def _ratios(tokens: TokenInputs) -> Ratios:
    sampled_T, advantages_T = tokens.needed("logprobs"), tokens.needed("advantages")
    counted_T, trained_T = _counted(tokens, sampled_T), tokens.logprobs_T
    teacher_T = tokens.optional("teacher", missing=0.0)
    if teacher_T is not None:
        advantages_T = teacher_T - trained_T.detach()
    if counted_T is not None:
        # What does not count has ratio 1, whatever it is, and so neither loss nor gradient.
        trained_T = torch.where(counted_T > 0, trained_T, sampled_T)
        advantages_T = advantages_T * counted_T
    return Ratios(
        trained_T=trained_T,
        sampled_T=sampled_T,
        advantages_T=advantages_T,
        counted_T=counted_T,
        sequence_T=tokens.numbers_T(),
        config=tokens.config,
    )


def _counted(tokens: TokenInputs, sampled_T: Tensor) -> Tensor | None:
    """Return 1 where a token counts, None where all do."""
    if "band_low" not in tokens.config:
        return tokens.routed_T
    in_band_T = _in_band(tokens, sampled_T)
    return in_band_T if tokens.routed_T is None else tokens.routed_T * in_band_T


def _in_band(tokens: TokenInputs, sampled_T: Tensor) -> Tensor:
    low, high = tokens.config["band_low"], tokens.config["band_high"]
    return (trusted_band(tokens.logprobs_T, sampled_T, low=low, high=high) > 0).float()


def _sum(values_T: Tensor, weights_T: Tensor | None) -> Tensor:
    return (values_T if weights_T is None else values_T * weights_T).sum()


def _kl(tokens: TokenInputs, ratios: Ratios) -> Tensor:
    assert tokens.base_T is not None, "reads_base"
    kl_T = kl_to_base(tokens.logprobs_T, tokens.base_T)
    if (cap := tokens.config.get("kl_truncated_at")) is not None:
        kl_T = truncated_weights(ratios.trained_T, ratios.sampled_T, cap=cap) * kl_T
    return _sum(kl_T, tokens.optional("weights", missing=1.0))


def _measures(gradient: PolicyGradient, tokens: TokenInputs) -> dict[str, float]:
    ratios = _ratios(replace(tokens, logprobs_T=tokens.logprobs_T.detach()))
    _, acts_T = SURROGATES[gradient.loss](ratios)
    measures = {"bounded:sum": float(acts_T.sum())}
    if "band_low" in tokens.config:
        in_band_T = _in_band(tokens, tokens.needed("logprobs"))
        measures["distrusted_tokens:sum"] = float((1 - in_band_T).sum())
    teacher_T = tokens.optional("teacher", missing=0.0)
    if teacher_T is not None:
        away_T = tokens.logprobs_T.detach() - teacher_T
        measures["teacher_kl:mean"] = float(_sum(away_T, tokens.optional("weights", missing=1.0)))
    if gradient.kl == "loss" and _has_kl(tokens.config):
        measures["kl:mean"] = float(_kl(tokens, ratios).detach())
    return measures


def _has_kl(config: Config) -> bool:
    return config.get("kl_coefficient", 0.0) != 0.0


_CONFIG = (
    "kl_coefficient",
    "kl_truncated_at",
    "truncated_at",
    "band_low",
    "band_high",
    "clip_low",
    "clip_high",
    "sampler_pull",
)


def _config(gradient: PolicyGradient, kl_coefficient: float, mismatch: Mismatch) -> dict[str, float]:
    rules: dict[Mismatch, dict[str, float]] = {
        "none": {},
        "truncated": {"truncated_at": TRUNCATED_AT},
        "band": {"band_low": BAND[0], "band_high": BAND[1]},
    }
    bounds = {"clip_low": gradient.clip_low, "clip_high": gradient.clip_high}
    return {
        "kl_coefficient": kl_coefficient,
        **({"kl_truncated_at": TRUNCATED_AT} if kl_coefficient and gradient.kl == "loss" else {}),
        **rules[mismatch],
        **{name: bound for name, bound in bounds.items() if bound is not None},
        **({"sampler_pull": SAMPLER_PULL} if gradient.loss == "dppo" else {}),
    }


def _training(gradient: PolicyGradient, max_new_tokens: int) -> TrainingAlgorithm:
    build = partial(build_grpo_batch, gradient=gradient, max_new_tokens=max_new_tokens)
    return TrainingAlgorithm(
        loss=token_loss(gradient),
        build_batch=build,
        build_pulled_batch=partial(build, pulls=True),
        config=partial(_config, gradient),
    )


TRAINING = GradientTraining(build=_training)
