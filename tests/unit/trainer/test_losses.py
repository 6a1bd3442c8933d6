"""Losses, their corrections and advantages against naive float64 arithmetic."""

import math
import statistics
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.core.batch import STD_EPSILON, group_advantages
from services.trainer.core.losses.mismatch import (
    in_band,
    out_of_route,
    replayed_mask,
    truncated_sampling,
    truncated_weights,
    trusted_band,
)
from services.trainer.core.losses.policy import (
    Clip,
    cispo,
    cross_entropy,
    dro,
    gspo,
    importance_sampling,
    ppo,
)
from services.trainer.core.losses.preference import dpo, reward_margin, sequence_sums
from services.trainer.core.losses.tokens import kl_to_base, ratio_max_error, token_logprobs

logprob = st.floats(-8.0, -0.0625, width=32)
token = st.tuples(logprob, logprob, st.floats(-3.0, 3.0, width=32))
tokens = st.lists(token, min_size=1, max_size=20)
rewards = st.lists(st.floats(-5.0, 5.0, width=32), min_size=2, max_size=16)
Rows = list[tuple[float, float, float]]
CLIP = Clip(low=0.8, high=1.25)


def columns(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    p, q, a = (torch.tensor(column) for column in zip(*rows, strict=True))
    return p, q, a


def clipped(ratio: float) -> float:
    return min(max(ratio, 0.8), 1.25)


def total_matches(found: Tensor, terms: Sequence[float]) -> None:
    bound = 1e-5 * (1 + math.fsum(map(abs, terms)))
    assert float(found.detach()) == pytest.approx(math.fsum(terms), abs=bound)


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), min_size=1, max_size=6))
def test_token_logprob_is_the_log_of_the_softmax(logits: list[list[float]]) -> None:
    targets = [index % 5 for index in range(len(logits))]
    found = token_logprobs(torch.tensor(logits), torch.tensor(targets))
    for row, target, value in zip(logits, targets, found.tolist(), strict=True):
        expected = row[target] - math.log(math.fsum(math.exp(z) for z in row))
        assert value == pytest.approx(expected, abs=1e-5)


@given(tokens)
def test_cross_entropy_is_the_weighted_sum(rows: Rows) -> None:
    p, w, _ = columns(rows)
    total_matches(cross_entropy(p, w), [-pt * wt for pt, wt, _ in rows])
    total_matches(cross_entropy(p), [-pt for pt, _, _ in rows])


def test_cross_entropy_takes_several_targets_a_position() -> None:
    p, w = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert float(cross_entropy(p, w)) == pytest.approx(0.5 + 1.0 + 3.0)


@given(tokens)
def test_importance_sampling_is_the_sum_of_weighted_advantages(rows: Rows) -> None:
    total_matches(importance_sampling(*columns(rows)), [-math.exp(p - q) * a for p, q, a in rows])


@given(tokens)
def test_ppo_takes_the_worse_of_ratio_and_clipped_ratio(rows: Rows) -> None:
    terms = [-min(math.exp(p - q) * a, clipped(math.exp(p - q)) * a) for p, q, a in rows]
    total_matches(ppo(*columns(rows), clip=CLIP), terms)


@given(tokens)
def test_cispo_weighs_the_logprob_with_the_clipped_ratio(rows: Rows) -> None:
    p, q, a = columns(rows)
    p.requires_grad_()
    loss = cispo(p, q, a, clip=CLIP)
    total_matches(loss, [-clipped(math.exp(pt - qt)) * pt * at for pt, qt, at in rows])
    loss.backward()
    expected = torch.tensor([-clipped(math.exp(pt - qt)) * at for pt, qt, at in rows])
    assert torch.allclose(p.grad, expected, rtol=1e-5, atol=1e-5)


@given(tokens, st.floats(0.0, 2.0))
def test_dro_pulls_to_the_sampler(rows: Rows, beta: float) -> None:
    terms = [-(p * a - 0.5 * beta * (p - q) ** 2) for p, q, a in rows]
    total_matches(dro(*columns(rows), beta=beta), terms)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(token, min_size=1, max_size=6), st.booleans()), min_size=1, max_size=4))
def test_gspo_has_one_ratio_a_sequence(sequences: list[tuple[Rows, bool]]) -> None:
    rows = [row for sequence, _ in sequences for row in sequence]
    p, q, a = columns(rows)
    p.requires_grad_()
    number = torch.tensor([index for index, (sequence, _) in enumerate(sequences) for _ in sequence])
    # The first token of some sequences does not count for the ratio.
    mask = [float(not (drop and i == 0)) for sequence, drop in sequences for i in range(len(sequence))]
    loss = gspo(p, q, a, sequence_T=number, mask_T=torch.tensor(mask), clip=CLIP)
    terms, slopes, at = [], [], 0
    for sequence, _ in sequences:
        counted = [row for row, m in zip(sequence, mask[at:], strict=False) if m]
        ratio = math.exp(statistics.fmean(r[0] - r[1] for r in counted)) if counted else 1.0
        terms += [-min(ratio * at_, clipped(ratio) * at_) for _, _, at_ in sequence]
        slopes += [-ratio * at_ if ratio * at_ <= clipped(ratio) * at_ else 0.0 for _, _, at_ in sequence]
        at += len(sequence)
    total_matches(loss, terms)
    loss.backward()
    # Where the clip begins or A is zero, either slope is right.
    if 0.0 not in slopes:
        assert torch.allclose(p.grad, torch.tensor(slopes), rtol=1e-3, atol=1e-4)


def ratio_losses() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    return {
        "importance_sampling": importance_sampling,
        "ppo": lambda p, q, a: ppo(p, q, a, clip=CLIP),
        "cispo": lambda p, q, a: cispo(p, q, a, clip=CLIP),
        "dro": lambda p, q, a: dro(p, q, a, beta=0.5),
        "gspo": lambda p, q, a: gspo(
            p,
            q,
            a,
            sequence_T=torch.zeros(len(p), dtype=torch.long),
            mask_T=torch.ones(len(p)),
            clip=CLIP,
        ),
    }


@pytest.mark.parametrize("name", sorted(ratio_losses()))
@given(rows=tokens)
def test_on_fresh_rollouts_every_loss_has_the_gradient_of_reinforce(name: str, rows: Rows) -> None:
    p, _, a = columns(rows)
    p.requires_grad_()
    ratio_losses()[name](p, p.detach(), a).backward()
    assert torch.allclose(p.grad, -a, atol=1e-5)


def test_bounds_of_a_clip_may_differ_by_token() -> None:
    clip = Clip(low=torch.tensor([0.5, 0.9]), high=torch.tensor([1.0, 1.1]))
    assert clip.apply(torch.tensor([2.0, 0.1])).tolist() == pytest.approx([1.0, 0.9])


@given(tokens)
def test_kl_is_k3_and_never_negative(rows: Rows) -> None:
    p, b, _ = columns(rows)
    terms = [math.exp(bt - pt) - (bt - pt) - 1 for pt, bt, _ in rows]
    found = kl_to_base(p, b)
    total_matches(found, terms)
    assert float(found) >= -1e-5


def test_kl_of_equal_policies_is_zero() -> None:
    p = torch.tensor([-1.0, -3.0])
    assert float(kl_to_base(p, p)) == 0.0


def test_ratio_error_is_the_largest_distance_from_one() -> None:
    found = ratio_max_error(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -2.5, -2.9]))
    assert found == pytest.approx(math.expm1(0.5), rel=1e-5)


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=8))
def test_dpo_is_the_logistic_loss_of_the_margin(pairs: list[tuple[float, float]]) -> None:
    chosen, rejected = (torch.tensor(column) for column in zip(*pairs, strict=True))
    total_matches(dpo(chosen, rejected, beta=0.3), [math.log1p(math.exp(-0.3 * (c - d))) for c, d in pairs])
    margin = statistics.fmean(0.3 * (c - d) for c, d in pairs)
    assert reward_margin(chosen, rejected, beta=0.3) == pytest.approx(margin, abs=1e-5)


def test_sums_of_sequences_carry_the_gradient_to_their_tokens() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    sums = sequence_sums(values, torch.tensor([1, 0, 1]), count=3)
    assert sums.tolist() == [2.0, 5.0, 0.0]
    sums[1].backward()
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


@given(tokens)
def test_truncated_weights_are_capped_and_carry_no_gradient(rows: Rows) -> None:
    p, q, _ = columns(rows)
    weights = truncated_weights(p.requires_grad_(), q, cap=2.0)
    assert not weights.requires_grad
    assert weights.tolist() == pytest.approx([min(math.exp(a - b), 2.0) for a, b, _ in rows], rel=1e-4)


@given(tokens)
def test_outside_the_trusted_band_a_token_weighs_nothing(rows: Rows) -> None:
    p, q, _ = columns(rows)
    for weight, (a, b, _) in zip(trusted_band(p, q, low=0.5, high=2.0).tolist(), rows, strict=True):
        ratio = math.exp(a - b)
        if min(abs(ratio - 0.5), abs(ratio - 2.0)) > 1e-4:
            assert weight == pytest.approx(ratio if 0.5 <= ratio <= 2.0 else 0.0, rel=1e-4)


def test_a_token_with_an_unknown_expert_is_masked_out() -> None:
    recorded = torch.tensor([[[0, 3], [1, 2]], [[0, 4], [1, 2]], [[0, 1], [-1, 2]]])
    assert replayed_mask(recorded, experts=4).tolist() == [1.0, 0.0, 0.0]


def test_out_of_route_counts_what_the_own_router_would_not_take() -> None:
    recorded = torch.tensor([[[0, 3], [1, 2]], [[0, 1], [1, 2]]])
    chosen = torch.tensor([[[3, 0], [2, 1]], [[0, 2], [3, 0]]])
    assert out_of_route(chosen, recorded).tolist() == [0.0, 0.75]


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


@given(tokens)
def test_truncated_sampling_bounds_the_weight_and_keeps_the_gradient(rows: Rows) -> None:
    p, q, a = columns(rows)
    p.requires_grad_()
    loss = truncated_sampling(p, q, a)
    weights = [min(math.exp(pt - qt), 2.0) for pt, qt, _ in rows]
    total_matches(loss, [-w * pt * at for w, (pt, _, at) in zip(weights, rows, strict=True)])
    loss.backward()
    expected = torch.tensor([-w * at for w, (_, _, at) in zip(weights, rows, strict=True)])
    assert torch.allclose(p.grad, expected, rtol=1e-5, atol=1e-5)


@given(tokens)
def test_a_token_counts_inside_the_band(rows: Rows) -> None:
    p, q, _ = columns(rows)
    for found, (pt, qt, _) in zip(in_band(p, q).tolist(), rows, strict=True):
        ratio = math.exp(pt - qt)
        if min(abs(ratio - 0.5), abs(ratio - 5.0)) > 1e-4:
            assert found == float(0.5 < ratio < 5.0)
