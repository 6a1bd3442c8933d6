"""Losses and advantages against naive float64 arithmetic."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.core.advantages import STD_EPSILON, group_advantages
from services.trainer.core.losses import (
    cross_entropy,
    kl_to_base,
    policy_gradient,
    ratio_max_error,
    token_logprobs,
)

logprob = st.floats(-8.0, -0.0625, width=32)
token = st.tuples(logprob, logprob, st.floats(-3.0, 3.0, width=32))
tokens = st.lists(token, min_size=1, max_size=20)
rewards = st.lists(st.floats(-5.0, 5.0, width=32), min_size=2, max_size=16)


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), min_size=1, max_size=6))
def test_token_logprob_is_the_log_of_the_softmax(logits: list[list[float]]) -> None:
    targets = [index % 5 for index in range(len(logits))]
    found = token_logprobs(torch.tensor(logits), torch.tensor(targets))
    for row, target, value in zip(logits, targets, found.tolist(), strict=True):
        expected = row[target] - math.log(math.fsum(math.exp(z) for z in row))
        assert value == pytest.approx(expected, abs=1e-5)


@given(tokens)
def test_policy_gradient_is_the_mean_of_weighted_advantages(rows: list[tuple[float, float, float]]) -> None:
    p, q, a = (torch.tensor(column) for column in zip(*rows, strict=True))
    expected = -math.fsum(math.exp(pt - qt) * at for pt, qt, at in rows) / 50
    bound = 1e-6 * (1 + math.fsum(math.exp(pt - qt) * abs(at) for pt, qt, at in rows))
    assert float(policy_gradient(p, q, a, normaliser=50)) == pytest.approx(expected, abs=bound)


@given(tokens)
def test_policy_gradient_of_fresh_rollouts_is_that_of_reinforce(
    rows: list[tuple[float, float, float]],
) -> None:
    p, _, a = (torch.tensor(column) for column in zip(*rows, strict=True))
    p.requires_grad_()
    policy_gradient(p, p.detach(), a, normaliser=float(len(rows))).backward()
    assert torch.allclose(p.grad, -a / len(rows), atol=1e-6)


@given(tokens)
def test_kl_is_k3_and_never_negative(rows: list[tuple[float, float, float]]) -> None:
    p, b, _ = (torch.tensor(column) for column in zip(*rows, strict=True))
    terms = [math.exp(bt - pt) - (bt - pt) - 1 for pt, bt, _ in rows]
    found = float(kl_to_base(p, b, normaliser=7))
    assert found == pytest.approx(math.fsum(terms) / 7, rel=1e-4, abs=1e-5)
    assert found >= -1e-6


def test_kl_of_equal_policies_is_zero() -> None:
    p = torch.tensor([-1.0, -3.0])
    assert float(kl_to_base(p, p, normaliser=2)) == 0.0


@given(st.lists(logprob, min_size=1, max_size=20))
def test_cross_entropy_is_the_mean_negative_logprob(values: list[float]) -> None:
    found = float(cross_entropy(torch.tensor(values), normaliser=len(values)))
    assert found == pytest.approx(-statistics.fmean(values), rel=1e-5)


def test_ratio_error_is_the_largest_distance_from_one() -> None:
    found = ratio_max_error(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -2.5, -2.9]))
    assert found == pytest.approx(math.expm1(0.5), rel=1e-5)


@given(rewards)
def test_advantages_have_mean_zero_and_keep_the_order(values: list[float]) -> None:
    advantages = group_advantages(values)
    if min(values) == max(values):
        assert advantages is None
        return
    assert advantages is not None
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-6)
    by_reward = [a for _, a in sorted(zip(values, advantages, strict=True))]
    assert by_reward == sorted(by_reward)
    scale = statistics.stdev(values)
    assert statistics.stdev(advantages) == pytest.approx(scale / (scale + STD_EPSILON), rel=1e-6)


@given(rewards, st.permutations(range(16)))
def test_advantages_follow_their_samples(values: list[float], order: list[int]) -> None:
    order = [index for index in order if index < len(values)]
    straight, shuffled = group_advantages(values), group_advantages([values[index] for index in order])
    if straight is None:
        assert shuffled is None
    else:
        assert shuffled == pytest.approx([straight[index] for index in order], abs=1e-9)


@pytest.mark.parametrize("values", [[1.0], [0.1] * 7, []])
def test_a_group_that_teaches_nothing_has_no_advantages(values: list[float]) -> None:
    assert group_advantages(values) is None
