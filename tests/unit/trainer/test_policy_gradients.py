"""Policy gradients against hand-computed numbers, and against float64 references and their slopes."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mint_common.algorithms import BUILT_IN
from mint_common.events.policy_gradient import BOUNDS, PolicyGradient, PolicyLoss
from services.trainer.core.algorithms.policy_gradient import TRAINING
from services.trainer.core.losses.loss import SequenceInputs, TokenInputs
from services.trainer.core.mismatch_rules import Mismatch

LOSSES: tuple[PolicyLoss, ...] = get_args(PolicyLoss)
Token = tuple[float, float, float]
"""The policy's log-probability, the sampler's, and the advantage."""
LN2 = math.log(2)


def gradient_of(loss: PolicyLoss, **wishes: object) -> PolicyGradient:
    low, high = BOUNDS[loss]
    return PolicyGradient(loss=loss, clip_low=low, clip_high=high, **wishes)  # type: ignore[arg-type]  # a test's


def inputs_of(
    sequences: Sequence[Sequence[Token]],
    config: Mapping[str, float],
    *,
    base: Sequence[float] | None = None,
    by_sequence: bool = False,
) -> TokenInputs:
    """Return tokens in float64; ``by_sequence`` weighs them by 1 over their sequence's length."""
    tokens = [token for sequence in sequences for token in sequence]
    arrays = []
    for sequence in sequences:
        _, q, a = (np.array(column, np.float64) for column in zip(*sequence, strict=True))
        weights = {"weights": np.full(len(sequence), 1 / len(sequence))} if by_sequence else {}
        arrays.append({"logprobs": q, "advantages": a, **weights})
    return TokenInputs(
        logprobs_T=torch.tensor([p for p, _, _ in tokens], dtype=torch.float64).requires_grad_(),
        sequences=[SequenceInputs(targets=len(one["logprobs"]), arrays=one) for one in arrays],
        config=config,
        base_T=None if base is None else torch.tensor(base, dtype=torch.float64),
    )


def computed(
    gradient: PolicyGradient, sequences: Sequence[Sequence[Token]], *, mismatch: Mismatch = "none", **inputs
) -> tuple[float, list[float], float]:
    """Return the loss's sum, its gradient, and on how many tokens the bound acts."""
    training = TRAINING.build(gradient, 8)
    tokens = inputs_of(sequences, training.config(inputs.pop("kl", 0.0), mismatch), **inputs)
    loss = training.loss.formula(tokens)
    loss.backward()
    return (
        float(loss.detach()),
        tokens.logprobs_T.grad.tolist(),
        training.loss.measures(tokens)["bounded:sum"],
    )


@pytest.mark.parametrize(
    ("loss", "sequence", "expected", "acts"),
    [
        ("is", [(-1, -1 - LN2, 1), (-1 - LN2, -1, -1)], -2 + 0.5, 0),
        ("clip", [(-1, -1 - LN2, 1), (-1, -1 - LN2, -1)], -1.2 + 2, 1),
        ("clip", [(-1 - LN2, -1, 1), (-1 - LN2, -1, -1)], -0.5 + 0.8, 1),
        ("gspo", [(-1, -1 - LN2, 3), (-1 - LN2, -1, 3)], -3 - 3, 0),  # one ratio, the mean's: 1
        ("gspo", [(-1, -1 - LN2, 3), (-1, -1, 3)], -6 * (1 + 4e-4), 2),
        ("cispo", [(-1, -1 - 3 * LN2, 2), (-1 - LN2, -1, 2)], 2 * 5 + 2 * 0.5 * (1 + LN2), 1),
        ("dppo", [(math.log(0.5), math.log(0.25), 1)], 1e-3 * LN2**2, 1),
        ("dppo", [(math.log(0.5), math.log(0.25), -1)], 2 + 1e-3 * LN2**2, 0),
        ("dppo", [(math.log(0.25), math.log(0.5), -1)], 1e-3 * LN2**2, 1),
        ("dppo", [(math.log(0.25), math.log(0.5), 1)], -0.5 + 1e-3 * LN2**2, 0),
        ("tis", [(-1, -1 - 3 * LN2, 1), (-1 - LN2, -1, 1)], 2 + 0.5 * (1 + LN2), 1),
        ("mis", [(-1, -1 - 3 * LN2, 1), (-1, -1, 1)], 1, 1),
        ("geo-rs", [(-1, -1 - 3 * LN2, 1), (-1, -1 + 3 * LN2, 1)], 2 + 1 / 8, 0),
        ("geo-rs", [(-1, -1.01, 1), (-1, -1, 1)], 0, 2),
    ],
)
def test_a_loss_has_the_value_computed_by_hand(
    loss: PolicyLoss, sequence: list[Token], expected: float, acts: int
) -> None:
    value, _, bounded = computed(gradient_of(loss), [sequence])
    assert (value, bounded) == (pytest.approx(expected, rel=1e-9), acts)


def clipped(ratio: float, loss: PolicyLoss) -> float:
    low, high = BOUNDS[loss]
    return min(max(ratio, low or 0.0), math.inf if high is None else high)


def surrogate(loss: PolicyLoss, ratio: float, advantage: float) -> float:
    return min(ratio * advantage, clipped(ratio, loss) * advantage)


def reference(loss: PolicyLoss, live: Sequence[Token], frozen: Sequence[Token]) -> float:
    """Return a sequence's loss from the papers; what they do not differentiate is of ``frozen`` tokens."""
    drift = math.fsum(p - q for p, q, _ in frozen) / len(frozen)
    total = 0.0
    for (p, q, a), (p0, _, _) in zip(live, frozen, strict=True):
        ratio, held = math.exp(p - q), math.exp(p0 - q)
        rise = math.exp(p0) - math.exp(q)
        match loss:
            case "is":
                total -= ratio * a
            case "clip":
                total -= surrogate(loss, ratio, a)
            case "gspo":  # the sequence's own ratio, differentiated through its mean
                total -= surrogate(loss, math.exp(math.fsum(x - y for x, y, _ in live) / len(live)), a)
            case "cispo" | "tis":
                total -= clipped(held, loss) * p * a
            case "dppo":
                kept = rise <= 0.2 if a > 0 else rise >= -0.2
                total += 1e-3 * (p - q) ** 2 - kept * ratio * a
            case "mis":
                total -= (held if 0.5 <= held <= 2.0 else 0.0) * p * a
            case "geo-rs":
                total -= (0.999 <= math.exp(drift) <= 1.001) * min(held, 2.0) * p * a
    return total


def drawn(seed: int, *, size: float) -> list[list[Token]]:
    """Return sequences whose tokens' log-ratios have about a size, each with one advantage."""
    rng = random.Random(seed)
    sequences: list[list[Token]] = []
    for _ in range(12):
        advantage = rng.choice([-1.5, -0.5, 0.7, 2.0])
        policy = [-rng.uniform(0.02, 3.0) for _ in range(rng.randint(1, 7))]
        sequences.append([(p, p - rng.gauss(0.0, size), advantage) for p in policy])
    return sequences


@pytest.mark.parametrize("by_sequence", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_gradient_is_the_slope_of_the_papers_objective(loss: PolicyLoss, *, by_sequence: bool) -> None:
    """By central differences in float64, on both sides of each bound."""
    sequences = drawn(3, size=7e-4 if loss in {"gspo", "geo-rs"} else 1.0)
    value, slopes, bounded = computed(gradient_of(loss), sequences, by_sequence=by_sequence)
    weights = [1 / len(one) if by_sequence else 1.0 for one in sequences]
    totals = [reference(loss, one, one) * w for one, w in zip(sequences, weights, strict=True)]
    assert value == pytest.approx(math.fsum(totals), rel=1e-9)
    assert loss == "is" or 0 < bounded < len(slopes)
    step, expected = 1e-6, []
    for sequence, weight in zip(sequences, weights, strict=True):
        for at, (p, q, a) in enumerate(sequence):
            up, down = ([*sequence[:at], (p + e, q, a), *sequence[at + 1 :]] for e in (step, -step))
            difference = reference(loss, up, sequence) - reference(loss, down, sequence)
            expected.append(weight * difference / (2 * step))
    assert slopes == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(
    tokens=st.lists(st.tuples(st.floats(-8, -0.06), st.floats(-3, 3)), min_size=1, max_size=20),
    cut=st.integers(1, 20),
)
def test_on_fresh_rollouts_every_loss_has_the_gradient_of_reinforce(
    loss: PolicyLoss, tokens: list[tuple[float, float]], cut: int
) -> None:
    fresh = [(p, p, a) for p, a in tokens]
    _, slopes, bounded = computed(gradient_of(loss), [one for one in (fresh[:cut], fresh[cut:]) if one])
    assert slopes == pytest.approx([-a for _, a in tokens], abs=1e-9)
    assert bounded == 0


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"is"}))
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("ends", [(-0.01, -2000.0), (-2000.0, -0.01)])
def test_the_farthest_token_spoils_no_bounded_step(
    loss: PolicyLoss, advantage: float, ends: tuple[float, float]
) -> None:
    value, slopes, _ = computed(gradient_of(loss), [[(*ends, advantage), (-1.0, -1.0, advantage)]])
    assert all(map(math.isfinite, [value, *slopes]))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_kl_term_has_the_value_of_k3_and_the_gradient_of_k2(loss: PolicyLoss) -> None:
    sequences, base = [[(-1.0, -1.0, 0.0), (-2.0, -2.0, 0.0)]], [-1.5, -1.0]
    value, slopes, _ = computed(gradient_of(loss), sequences, base=base, kl=0.3)
    moved = [0.5, -1.0]
    assert value == pytest.approx(0.3 * math.fsum(math.exp(-d) - 1 + d for d in moved))
    assert slopes == pytest.approx([0.3 * d for d in moved])


SAMPLERS = {"fresh": [0.3, -1.0, 0.8], "stale": [0.1, -0.7, 0.6]}
"""Logits of samplers, of which the first is the policy; the other's ratios are below the limit."""


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_kl_term_pulls_along_the_slope_of_the_divergence_itself(loss: PolicyLoss, sampler: str) -> None:
    """Its mean over a small vocabulary, with the sampler's probabilities, is that of KL(policy || base).

    The slope is by central differences; the value is the divergence itself.
    """
    logits = torch.tensor(SAMPLERS["fresh"], dtype=torch.float64)
    base = torch.log_softmax(torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64), 0)
    sampled = torch.log_softmax(torch.tensor(SAMPLERS[sampler], dtype=torch.float64), 0)

    def divergence(at: torch.Tensor) -> float:
        policy = torch.log_softmax(at, 0)
        return float((policy.exp() * (policy - base)).sum())

    leaf = logits.clone().requires_grad_()
    policy = torch.log_softmax(leaf, 0)
    pulled = [
        computed(gradient_of(loss), [[(p, q, 0.0)]], base=[b], kl=kl)
        for kl in (1.0, 0.0)
        for p, q, b in zip(policy.tolist(), sampled.tolist(), base.tolist(), strict=True)
    ]
    pairs = list(zip(pulled[:3], pulled[3:], strict=True))
    values = torch.tensor([with_kl[0] - without[0] for with_kl, without in pairs], dtype=torch.float64)
    slopes = torch.tensor([with_kl[1][0] - without[1][0] for with_kl, without in pairs], dtype=torch.float64)
    share = sampled.exp()
    (estimated,) = torch.autograd.grad((policy * share * slopes).sum(), leaf)
    step, expected = 1e-5, []
    for at in range(3):
        moved = torch.zeros(3, dtype=torch.float64)
        moved[at] = step
        expected.append((divergence(logits + moved) - divergence(logits - moved)) / (2 * step))
    assert estimated.tolist() == pytest.approx(expected, abs=1e-9)
    assert float((share * values).sum()) == pytest.approx(divergence(logits), abs=1e-12)


@pytest.mark.parametrize("mismatch", ["none", "truncated", "band"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_kl_of_a_stale_token_has_the_weight_computed_by_hand(
    loss: PolicyLoss, mismatch: Mismatch
) -> None:
    """Ratios 2/3, 1.5, and 8, which is cut to 2, or is 1 where the token does not count at all."""
    ratios, moved = [2 / 3, 1.5, 8.0], [0.5, -1.0, 0.25]
    tokens = [(-1.0, -1.0 - math.log(ratio), 0.0) for ratio in ratios]
    found = [
        computed(gradient_of(loss), [tokens], base=[-1.0 - d for d in moved], kl=kl, mismatch=mismatch)
        for kl in (0.3, 0.0)
    ]
    weights = [2 / 3, 1.5, 1.0 if mismatch == "band" else 2.0]
    pulled = [with_kl - without for with_kl, without in zip(found[0][1], found[1][1], strict=True)]
    assert pulled == pytest.approx([0.3 * w * d for w, d in zip(weights, moved, strict=True)])
    value = math.fsum(w * (math.exp(-d) - 1 + d) for w, d in zip(weights, moved, strict=True))
    assert found[0][0] - found[1][0] == pytest.approx(0.3 * value)


def test_the_kl_gradient_is_trls_differentiated_product_of_ratio_and_k3() -> None:
    """As TRL 1.16 has it (`use_bias_correction_kl`), below the limit of the ratio."""
    p = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    q, base = torch.tensor([-1.2, -1.8, -0.9]).double(), torch.tensor([-1.5, -1.0, -0.7]).double()
    kl = (torch.exp(base - p) - (base - p) - 1) * torch.exp(p - q)
    kl.sum().backward()
    tokens = [(*pair, 0.0) for pair in zip(p.tolist(), q.tolist(), strict=True)]
    value, slopes, _ = computed(gradient_of("clip"), [tokens], base=base.tolist(), kl=1.0)
    assert slopes == pytest.approx(p.grad.tolist(), rel=1e-12)
    assert value == pytest.approx(float(kl.sum().detach()), rel=1e-12)


tokens_of = st.lists(st.tuples(st.floats(-8, -0.06), st.floats(-8, -0.06), st.floats(-3, 3)), min_size=1)


@pytest.mark.parametrize("loss", ["is", "dppo"])
@given(tokens=tokens_of)
def test_a_truncated_ratio_bounds_the_weight_and_keeps_the_gradient(
    loss: PolicyLoss, tokens: list[Token]
) -> None:
    _, slopes, _ = computed(gradient_of(loss), [tokens], mismatch="truncated")
    expected = []
    for p, q, a in tokens:
        rise = math.exp(p) - math.exp(q)
        kept = loss == "is" or (rise <= 0.2 if a > 0 else rise >= -0.2)
        pull = 2e-3 * (p - q) if loss == "dppo" else 0.0
        expected.append(pull - kept * min(math.exp(p - q), 2.0) * a)
    assert slopes == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@given(tokens=tokens_of)
def test_a_token_counts_inside_the_band(loss: PolicyLoss, tokens: list[Token]) -> None:
    counted = [0.5 <= math.exp(p - q) <= 5.0 for p, q, _ in tokens]
    _, slopes, _ = computed(gradient_of(loss), [tokens], mismatch="band")
    assert not any(slope for slope, counts in zip(slopes, counted, strict=True) if not counts)
    inside = [token for token, counts in zip(tokens, counted, strict=True) if counts]
    if inside:
        _, alone, _ = computed(gradient_of(loss), [inside])
        found = [slope for slope, counts in zip(slopes, counted, strict=True) if counts]
        assert found == pytest.approx(alone, rel=1e-9, abs=1e-9)


def test_each_preset_is_the_one_that_its_authors_train_with() -> None:
    found = {one.name: one.gradient for one in BUILT_IN if one.gradient is not None}
    told: Callable[[PolicyGradient], tuple[object, ...]] = lambda g: (  # noqa: E731  # a table's columns
        g.advantage,
        g.loss,
        g.aggregation,
        g.clip_low,
        g.clip_high,
    )
    assert {name: told(gradient) for name, gradient in found.items()} == {
        "grpo": ("std", "is", "token_mean", None, None),
        "dr-grpo": ("centre", "is", "constant", None, None),
        "rloo": ("rloo", "is", "token_mean", None, None),
        "dapo": ("std", "clip", "token_mean", 0.8, 1.28),
        "gspo": ("std", "gspo", "sequence_mean", 1 - 3e-4, 1 + 4e-4),
        "cispo": ("std", "cispo", "token_mean", 0.0, 5.0),
        "dppo": ("centre", "dppo", "token_mean", 0.2, 0.2),
        "opd": ("teacher", "dppo", "token_mean", 0.2, 0.2),
    }
    assert {name for name in found if not next(one for one in BUILT_IN if one.name == name).fixes_loss} == {
        "grpo",
        "dr-grpo",
        "rloo",
    }
