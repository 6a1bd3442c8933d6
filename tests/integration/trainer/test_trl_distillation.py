"""On-policy distillation against TRL's own losses: of sampled tokens, and of the whole vocabulary."""

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mint_common.algorithms import Algorithms
from services.trainer.core.algorithms.policy_gradient import TRAINING
from services.trainer.core.losses.loss import SequenceInputs, TokenInputs

pytestmark = pytest.mark.integration
OPD = Algorithms().named("opd").gradient
assert OPD is not None
ROWS, TOKENS, WORDS = 3, 5, 7
LENGTHS = (5, 2, 4)


def trl() -> Any:
    """Return TRL's trainer; it imports vLLM, so not while collecting."""
    with warnings.catch_warnings(action="ignore"):  # about a newer vLLM, which nothing here uses
        from trl.experimental.iw_opd import IWOPDTrainer
    return IWOPDTrainer


def ours(lp: torch.Tensor, **arrays: list[float]) -> tuple[torch.Tensor, float]:
    """Return the sum of the losses of tokens with log-probabilities ``lp``, and the KL that it reports."""
    training = TRAINING.build(OPD, TOKENS)
    count = len(lp)
    given = {name: np.array(values, np.float64) for name, values in arrays.items()}
    sequence = SequenceInputs(targets=count, arrays={"advantages": np.zeros(count), **given})
    tokens = TokenInputs(logprobs_T=lp, sequences=[sequence], config=training.config(0.0, "none"))
    return training.loss.formula(tokens), training.loss.measures(tokens)["teacher_kl:mean"]


def test_the_slopes_of_sampled_tokens_are_trl_s() -> None:
    """TRL's loss is -lp A: its value is another than that of the ratio, 1 here, and its slope the same."""
    chance = torch.Generator().manual_seed(1)
    logits = torch.randn(ROWS, TOKENS, WORDS, generator=chance, dtype=torch.float64)
    teacher = torch.log_softmax(torch.randn(logits.shape, generator=chance, dtype=torch.float64), -1)
    sampled = torch.randint(WORDS, (ROWS, TOKENS), generator=chance)
    is_there = torch.tensor([[place < length for place in range(TOKENS)] for length in LENGTHS])
    of_teacher = teacher.gather(-1, sampled.unsqueeze(-1)).squeeze(-1)

    theirs = logits.clone().requires_grad_()
    metrics: Any = defaultdict(lambda: defaultdict(list))
    trainer = SimpleNamespace(
        temperature=1.0,
        iw_opd_gamma=0.0,
        iw_opd_epsilon=1e-8,
        model=SimpleNamespace(training=True),
        _metrics=metrics,
    )
    labels = torch.where(is_there, sampled, -100)
    trl()._compute_iw_opd_loss(trainer, theirs, sampled, labels, of_teacher).backward()

    own = logits.clone().requires_grad_()
    of_policy = torch.log_softmax(own, -1).gather(-1, sampled.unsqueeze(-1)).squeeze(-1)[is_there]
    loss, kl = ours(of_policy, logprobs=of_policy.tolist(), teacher=of_teacher[is_there].tolist())
    (loss / sum(LENGTHS)).backward()
    assert torch.allclose(own.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert kl / sum(LENGTHS) == pytest.approx(-metrics["train"]["iw_opd/mean_advantage"][0])


def test_its_expectation_has_the_slopes_of_trl_s_reverse_kl() -> None:
    chance = torch.Generator().manual_seed(2)
    logits = torch.randn(WORDS, generator=chance, dtype=torch.float64)
    teacher = torch.randn(WORDS, generator=chance, dtype=torch.float64)
    theirs = logits.clone().requires_grad_()
    reverse_kl = trl().generalized_jsd_loss(theirs[None, None], teacher[None, None], beta=1, reduction="sum")
    reverse_kl.backward()

    own = logits.clone().requires_grad_()
    logprobs = torch.log_softmax(own, -1)
    loss, kl = ours(
        logprobs,
        logprobs=logprobs.tolist(),
        teacher=torch.log_softmax(teacher, -1).tolist(),
        weights=logprobs.exp().tolist(),
    )
    loss.backward()
    assert torch.allclose(own.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert kl == pytest.approx(float(reverse_kl.detach()))
