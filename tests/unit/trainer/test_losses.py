"""Losses, their corrections and advantages against naive float64 arithmetic."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mint_common.algorithms import BUILT_IN
from mint_common.training import LossName
from services.trainer.core.algorithms.dpo import DPO, dpo
from services.trainer.core.algorithms.kto import KTO, kto
from services.trainer.core.losses.cross_entropy import cross_entropy
from services.trainer.core.losses.gspo import gspo
from services.trainer.core.losses.loss import Comparison, SequenceInputs, TokenInputs, TokenLoss
from services.trainer.core.losses.mismatch import (
    out_of_route,
    replayed_mask,
    truncated_weights,
    trusted_band,
)
from services.trainer.core.losses.ppo import ppo
from services.trainer.core.losses.table import PASS_LOSSES
from services.trainer.core.losses.tokens import (
    RatioSums,
    kl_to_base,
    ratio_max_error,
    sequence_sums,
    token_hits,
    token_logprobs,
)
from tests.unit.trainer.managed import MANAGED

logprob = st.floats(-8.0, -0.0625, width=32)
token = st.tuples(logprob, logprob, st.floats(-3.0, 3.0, width=32))
tokens = st.lists(token, min_size=1, max_size=20)
Rows = list[tuple[float, float, float]]
"""Of each token: the policy's log-probability, the sampler's, the advantage or weight."""
CLIP = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.25}
REFERENCES: Mapping[str, tuple[dict[str, float], Callable[[float, float, float], float]]] = {
    "cross_entropy": ({}, lambda p, _q, w: -p * w),
    "importance_sampling": ({}, lambda p, q, a: -math.exp(p - q) * a),
    "ppo": (CLIP, lambda p, q, a: -min(math.exp(p - q) * a, clipped(math.exp(p - q)) * a)),
    "cispo": (CLIP, lambda p, q, a: -clipped(math.exp(p - q)) * p * a),
    "dro": ({"beta": 0.7}, lambda p, q, a: -(p * a - 0.5 * 0.7 * (p - q) ** 2)),
    # One token a sequence: the ratio of a sequence is the token's.
    "gspo": (CLIP, lambda p, q, a: -min(math.exp(p - q) * a, clipped(math.exp(p - q)) * a)),
}
"""Each token loss's numbers and its term for one token, in float64."""


def inputs_of(
    rows: Rows, config: Mapping[str, float] | None = None, *, sizes: Sequence[int] = ()
) -> TokenInputs:
    """Return rows as sequences of some sizes, one token each without; the policy's side takes a gradient."""
    p, q, a = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    sequences, begin = [], 0
    for size in sizes or [1] * len(rows):
        span = slice(begin, begin + size)
        arrays = {"logprobs": q[span], "advantages": a[span], "weights": a[span]}
        sequences.append(SequenceInputs(targets=size, arrays=arrays))
        begin += size
    return TokenInputs(
        logprobs_T=torch.from_numpy(p).requires_grad_(), sequences=sequences, config=config or {}
    )


def columns(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    p, q, a = (torch.tensor(column) for column in zip(*rows, strict=True))
    return p, q, a


def clipped(ratio: float) -> float:
    return min(max(ratio, 0.8), 1.25)


def total_matches(found: Tensor, terms: Sequence[float]) -> None:
    bound = 1e-5 * (1 + math.fsum(map(abs, terms)))
    assert float(found.detach()) == pytest.approx(math.fsum(terms), abs=bound)


def test_every_token_loss_has_a_reference() -> None:
    """Policy gradients have theirs in test_policy_gradients.py."""
    assert set(REFERENCES) == set(PASS_LOSSES)
    managed = [MANAGED.named(one.name).training.loss for one in BUILT_IN if one.gradient is None]
    assert all(loss in PASS_LOSSES.values() for loss in managed if isinstance(loss, TokenLoss))


def test_clients_may_name_what_the_protocol_names() -> None:
    assert set(PASS_LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize("name", REFERENCES)
@given(rows=tokens)
def test_a_loss_is_the_sum_of_its_reference(name: str, rows: Rows) -> None:
    config, reference = REFERENCES[name]
    loss = PASS_LOSSES[name]
    assert isinstance(loss, TokenLoss)
    assert set(config) <= {*loss.needed_config, *loss.optional_config}
    total_matches(loss.formula(inputs_of(rows, config)), [reference(*row) for row in rows])


@given(st.lists(st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), min_size=1, max_size=6))
def test_token_logprob_is_the_log_of_the_softmax(logits: list[list[float]]) -> None:
    targets = [index % 5 for index in range(len(logits))]
    found = token_logprobs(torch.tensor(logits), torch.tensor(targets))
    for row, target, value in zip(logits, targets, found.tolist(), strict=True):
        expected = row[target] - math.log(math.fsum(math.exp(z) for z in row))
        assert value == pytest.approx(expected, abs=1e-5)


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5),
            st.sampled_from([0.5, 0.7, 1.0, 2]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_token_logprob_at_a_temperature_is_that_of_the_logits_over_it(
    rows: list[tuple[list[float], float]],
) -> None:
    logits = torch.tensor([row for row, _ in rows], requires_grad=True)
    found = token_logprobs(logits, torch.arange(len(rows)) % 5, torch.tensor([own for _, own in rows]))
    found.sum().backward()
    for at, (row, own) in enumerate(rows):
        weights = [math.exp(z / own - max(row) / own) for z in row]
        expected = (row[at % 5] - max(row)) / own - math.log(math.fsum(weights))
        assert float(found[at].detach()) == pytest.approx(expected, abs=2e-5)
        slope = [((i == at % 5) - weight / math.fsum(weights)) / own for i, weight in enumerate(weights)]
        assert logits.grad[at].tolist() == pytest.approx(slope, abs=2e-5)


def test_without_weights_every_token_of_cross_entropy_counts_once() -> None:
    bare = SequenceInputs(targets=2, arrays={})
    p = torch.tensor([-1.0, -2.5])
    assert float(cross_entropy(TokenInputs(logprobs_T=p, sequences=[bare], config={}))) == 3.5


@given(tokens)
def test_cispo_keeps_the_gradient_of_clipped_tokens(rows: Rows) -> None:
    inputs = inputs_of(rows, CLIP)
    PASS_LOSSES["cispo"].formula(inputs).backward()
    expected = torch.tensor([-clipped(math.exp(pt - qt)) * at for pt, qt, at in rows])
    assert torch.allclose(inputs.logprobs_T.grad, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(token, min_size=1, max_size=6), st.booleans()), min_size=1, max_size=4))
def test_gspo_has_one_ratio_a_sequence(sequences: list[tuple[Rows, bool]]) -> None:
    rows = [row for sequence, _ in sequences for row in sequence]
    inputs = inputs_of(rows, CLIP, sizes=[len(sequence) for sequence, _ in sequences])
    terms, slopes = [], []
    for one, (sequence, drop) in zip(inputs.sequences, sequences, strict=True):
        # The first token of some sequences does not count for the ratio.
        mask = [float(not (drop and i == 0)) for i in range(len(sequence))]
        one.arrays["sequence_ratio_mask"] = np.array(mask, np.float32)
        counted = [row for row, m in zip(sequence, mask, strict=True) if m]
        ratio = math.exp(statistics.fmean(r[0] - r[1] for r in counted)) if counted else 1.0
        terms += [-min(ratio * at_, clipped(ratio) * at_) for _, _, at_ in sequence]
        slopes += [-ratio * at_ if ratio * at_ <= clipped(ratio) * at_ else 0.0 for _, _, at_ in sequence]
    loss = gspo(inputs)
    total_matches(loss, terms)
    loss.backward()
    # Where the clip begins or A is zero, either slope is right.
    if 0.0 not in slopes:
        assert torch.allclose(inputs.logprobs_T.grad, torch.tensor(slopes), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - {"cross_entropy"}))
@given(rows=tokens)
def test_on_fresh_rollouts_every_loss_has_the_gradient_of_reinforce(name: str, rows: Rows) -> None:
    fresh = [(p, p, a) for p, _, a in rows]
    inputs = inputs_of(fresh, REFERENCES[name][0])
    loss = PASS_LOSSES[name]
    assert isinstance(loss, TokenLoss)
    loss.formula(inputs).backward()
    assert torch.allclose(inputs.logprobs_T.grad, -columns(fresh)[2], atol=1e-5)


def test_bounds_of_a_clip_may_differ_by_token() -> None:
    inputs = inputs_of([(-1.0, -2.0, 1.0), (-2.0, -2.5, 1.0)], CLIP)
    inputs.sequences[1].arrays["clip_high_threshold"] = np.array([1.1], np.float32)
    assert float(ppo(inputs).detach()) == pytest.approx(-1.25 - 1.1)


@given(tokens)
def test_kl_is_k3_and_never_negative(rows: Rows) -> None:
    p, b, _ = columns(rows)
    terms = [math.exp(bt - pt) - (bt - pt) - 1 for pt, bt, _ in rows]
    found = kl_to_base(p, b)
    total_matches(found.sum(), terms)
    assert float(found.min()) >= -1e-5


def test_kl_of_equal_policies_is_zero() -> None:
    p = torch.tensor([-1.0, -3.0])
    assert float(kl_to_base(p, p).sum()) == 0.0


def test_the_divergence_of_the_sampler_is_estimated_from_its_own_tokens() -> None:
    trained, sampled = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -2.5, -2.9])
    expected = sum(math.exp(d) - d - 1 for d in (0.0, 0.5, -0.1))
    found = RatioSums().added(trained[:1], sampled[:1]).added(trained[1:], sampled[1:])
    assert found.sampler_kl == pytest.approx(expected / 3, rel=1e-5)
    ratios = [1.0, math.exp(0.5), math.exp(-0.1)]
    effective = sum(ratios) ** 2 / (3 * sum(ratio**2 for ratio in ratios))
    assert (found.highest, found.effective_share) == pytest.approx((ratios[1], effective), rel=1e-5)


def test_ratio_error_is_the_largest_distance_from_one() -> None:
    found = ratio_max_error(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -2.5, -2.9]))
    assert found == pytest.approx(math.expm1(0.5), rel=1e-5)


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=8))
def test_dpo_is_the_logistic_loss_of_the_margin(pairs: list[tuple[float, float]]) -> None:
    chosen, rejected = (torch.tensor(column) for column in zip(*pairs, strict=True))
    compared = Comparison(wanted_N=chosen, unwanted_M=rejected, mismatched_K=torch.zeros(0))
    total_matches(dpo(compared, {"beta": 0.3}), [math.log1p(math.exp(-0.3 * (c - d))) for c, d in pairs])
    margin = statistics.fmean(0.3 * (c - d) for c, d in pairs)
    measures = DPO.measures(compared, {"beta": 0.3})
    assert measures["preference_margin:mean"] == pytest.approx(margin, abs=1e-5)


moves = st.lists(st.floats(-9, 9, width=32), max_size=8)


@given(moves, moves, moves)
def test_kto_is_the_value_of_each_answer_against_the_mean_of_mismatched_ones(
    wanted: list[float], unwanted: list[float], mismatched: list[float]
) -> None:
    beta = 0.3
    z = max(0.0, statistics.fmean(mismatched)) if mismatched else 0.0
    terms = [1 - sigmoid(beta * (w - z)) for w in wanted] + [1 - sigmoid(beta * (z - u)) for u in unwanted]
    tensors = [torch.tensor(one, requires_grad=True) for one in (wanted, unwanted, mismatched)]
    compared = Comparison(wanted_N=tensors[0], unwanted_M=tensors[1], mismatched_K=tensors[2])
    total = kto(compared, {"beta": beta})
    total_matches(total.detach(), terms)
    total.backward()
    slopes = [-beta * t * (1 - t) for t in terms]
    assert tensors[0].grad.tolist() == pytest.approx(slopes[: len(wanted)], abs=1e-5)
    assert tensors[1].grad.tolist() == pytest.approx([-s for s in slopes[len(wanted) :]], abs=1e-5)
    assert tensors[2].grad is None, "the estimate of the KL carries no gradient"
    with torch.no_grad():
        measures = KTO.measures(compared, {"beta": beta})
    assert measures["kl:mean"] == pytest.approx(z, abs=1e-5)
    assert ("preference_margin:mean" in measures) is bool(wanted and unwanted)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 2.5]), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_target_is_a_hit_where_no_token_is_likelier(logits: list[list[float]]) -> None:
    targets = [number % 3 for number in range(len(logits))]
    expected = [float(row[target] == max(row)) for row, target in zip(logits, targets, strict=True)]
    for found in (torch.tensor(targets), torch.tensor([[target, 0] for target in targets])):
        assert token_hits(torch.tensor(logits), found).tolist() == expected


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
