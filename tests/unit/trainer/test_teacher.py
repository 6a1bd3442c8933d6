"""On-policy distillation: each token's advantage is the teacher's log-probability less the policy's."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mint_common.algorithms import Algorithms
from mint_common.events.policy_gradient import PolicyGradient
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.core.algorithms.policy_gradient import TRAINING
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.losses.loss import SequenceInputs, TokenInputs
from services.trainer.core.packing import pack_rows
from services.trainer.core.record_check import check_record
from services.trainer.core.refusals import RecordInvalid
from tests.unit.trainer.test_batch import FACTS
from tests.unit.trainer.test_policy_gradients import gradient_of

OPD = Algorithms().named("opd").gradient
assert OPD is not None


def loss_of(gradient: PolicyGradient, lp: torch.Tensor, **arrays: list[float]) -> tuple[torch.Tensor, float]:
    """Return the loss of one sequence's tokens in float64, and the KL to the teacher that it reports."""
    training = TRAINING.build(gradient, 8)
    given = {name: np.array(values, np.float64) for name, values in arrays.items()}
    sequence = SequenceInputs(targets=len(lp), arrays={"advantages": np.zeros(len(lp)), **given})
    tokens = TokenInputs(logprobs_T=lp, sequences=[sequence], config=training.config(0.0, "none"))
    return training.loss.formula(tokens), training.loss.measures(tokens)["teacher_kl:mean"]


def test_the_loss_and_its_slope_have_the_values_computed_by_hand() -> None:
    lp = torch.tensor([-0.5, -2.0], dtype=torch.float64, requires_grad=True)
    loss, kl = loss_of(OPD, lp, logprobs=[-0.5, -2.0], teacher=[-1.0, -0.5])
    # Advantages -0.5 and 1.5 at ratio 1: -(-0.5 + 1.5).
    assert float(loss.detach()) == pytest.approx(-1.0)
    assert kl == pytest.approx(0.5 - 1.5)
    loss.backward()
    assert lp.grad.tolist() == pytest.approx([0.5, -1.5])  # type: ignore[union-attr]


def test_of_stale_samples_the_policy_of_now_is_compared_with_the_teacher() -> None:
    lp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss, _ = loss_of(gradient_of("is", advantage="teacher"), lp, logprobs=[-1.5], teacher=[-0.25])
    ratio = math.exp(0.5)
    assert float(loss.detach()) == pytest.approx(-ratio * 0.75)


@pytest.mark.parametrize("gradient", [OPD, gradient_of("is", advantage="teacher")])
def test_its_expectation_is_the_slope_of_the_kl_from_the_policy_to_the_teacher(
    gradient: PolicyGradient,
) -> None:
    """Over all tokens of a vocabulary, each weighed by its probability, against finite differences."""
    chance = np.random.default_rng(0)
    logits, teacher = chance.normal(size=6), torch.log_softmax(torch.tensor(chance.normal(size=6)), 0)

    def kl(values: np.ndarray) -> float:
        lp = torch.log_softmax(torch.tensor(values), 0)
        return float((lp.exp() * (lp - teacher)).sum())

    free = torch.tensor(logits, requires_grad=True)
    lp = torch.log_softmax(free, 0)
    sampled = lp.detach()
    loss, mean = loss_of(
        gradient, lp, logprobs=sampled.tolist(), teacher=teacher.tolist(), weights=sampled.exp().tolist()
    )
    loss.backward()
    step = 1e-6
    slopes = [(kl(logits + step * unit) - kl(logits - step * unit)) / (2 * step) for unit in np.eye(6)]
    assert free.grad.tolist() == pytest.approx(slopes, abs=1e-8)  # type: ignore[union-attr]
    assert mean == pytest.approx(kl(logits)), "what a step reports is the KL"


def record_of(rewards: tuple[float, ...], *, teacher: tuple[float, ...] = (-1.0, -2.0, -3.0)) -> WaveRecord:
    samples = tuple(
        Sample(
            tokens=(5, 6, 7),
            logprobs=(-0.5, 0.0, -0.75),
            reward=reward,
            text="",
            trained=((0, 1), (2, 3)),
            teacher=teacher,
        )
        for reward in rewards
    )
    return WaveRecord(wave_id="wave", revision=None, groups=(Group(prompt_tokens=(1,), samples=samples),))  # type: ignore[arg-type]


def test_every_group_is_trained_on_whatever_its_rewards() -> None:
    batch = build_grpo_batch(record_of((1.0, 1.0)), OPD, max_new_tokens=8)
    assert [row.advantage for row in batch.rows] == [0.0, 0.0]
    assert (batch.skipped_groups, batch.total_tokens) == (0, 4)
    (line, *_) = pack_rows(batch.rows, policy=0, max_length=0)
    (sequence,) = line.sequences()
    assert sequence.arrays["teacher"].tolist() == [-1.0, -3.0], "of the trained tokens alone"
    assert sequence.arrays["logprobs"].tolist() == [-0.5, -0.75]
    assert (
        "teacher"
        not in pack_rows([replace(row, teacher=()) for row in batch.rows], policy=0, max_length=0)[0]
        .sequences()[0]
        .arrays
    )


@pytest.mark.parametrize("teacher", [(), (-1.0,), (-1.0, math.nan, -1.0)])
def test_a_record_without_the_teachers_numbers_is_refused(teacher: tuple[float, ...]) -> None:
    check_record(record_of((1.0, 0.0)), FACTS, needs_logprobs=True, needs_teacher=True)
    wrong = record_of((1.0, 0.0), teacher=teacher)
    check_record(wrong, FACTS, needs_logprobs=True)
    with pytest.raises(RecordInvalid, match="teacher"):
        check_record(wrong, FACTS, needs_logprobs=True, needs_teacher=True)
