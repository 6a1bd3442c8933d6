"""Passes of policy gradients over a base: how they are cut, what they divide by, what they report."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.algorithms import BUILT_IN
from mint_common.events import LoraSpec
from mint_common.events.policy_gradient import BOUNDS, PolicyGradient, PolicyLoss
from mint_common.records import WaveRecord
from mint_common.training import Passed
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.batch import Row
from services.trainer.core.packing import PackedSequence
from services.trainer.core.wave_batch import WaveBatch
from tests.unit.trainer.managed import MANAGED
from tests.unit.trainer.test_lora import with_random_b

MakeRecord = Callable[..., WaveRecord]
LENGTH = 12


@pytest.fixture
def base(make_model: Callable[[], PreTrainedModel], make_base: Callable[..., ResidentBase]) -> ResidentBase:
    return make_base(make_model())


@pytest.fixture
def make_model() -> Callable[[], PreTrainedModel]:
    from .conftest import random_model

    return lambda: random_model("llama")


def state_of(base: ResidentBase, lora: LoraSpec) -> TrainingState:
    state = new_state(base.facts, lora)
    with_random_b(state.lora)
    return state


def logprobs_of(base: ResidentBase, state: TrainingState | None, row: Row) -> list[float]:
    line = PackedSequence(policy=0, rows=(row,))
    with torch.no_grad():
        return base.score([line], {0: state.lora} if state else None).logprobs_T.tolist()


def work_of(
    name: str, record: WaveRecord, gradient: PolicyGradient | None = None, *, kl: float = 0.0
) -> WaveBatch:
    algorithm = MANAGED.named(name, gradient, max_new_tokens=LENGTH)
    config = algorithm.training.config(kl, "none")
    return algorithm.wave_batch(algorithm.build_batch(record, pulls=algorithm.pulls(config)), config)


def passed(
    base: ResidentBase, state: TrainingState, *works: WaveBatch, max_tokens: int = 512
) -> tuple[list[dict[str, float]], torch.Tensor]:
    """Return the metrics of passes, and the gradient that they add up to."""
    passes = [PolicyPass(lora=state.lora, step=0, work=work) for work in works]
    results = run_policy_passes(base, passes, max_tokens=max_tokens)
    gradient = state.lora.leaf.grad
    state.lora.leaf.grad = None
    assert gradient is not None
    return [dict(one.metrics) for one in results if isinstance(one, Passed)], gradient


NAMES = [one.name for one in BUILT_IN if one.gradient]


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_is_the_same_however_its_lines_are_cut(
    name: str, base: ResidentBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    """Sequences are whole in each micro-batch, and divisors are those of the wave."""
    state, work = state_of(base, lora), work_of(name, make_record(skipped=1))
    (whole,), together = passed(base, state, work)
    (cut,), apart = passed(base, state, work, max_tokens=1)
    assert whole == pytest.approx(cut, rel=1e-4, abs=1e-6)
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_a_step_is_divided_by_its_own_wave_beside_others(
    aggregation: str, base: ResidentBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    record, state = make_record(skipped=1), state_of(base, lora)
    gradient = PolicyGradient(advantage="centre", aggregation=aggregation)  # type: ignore[arg-type]  # a parameter
    work = work_of("grpo", record, gradient)
    other = work_of("dapo", make_record(seed=3))
    metrics, _ = passed(base, state, work, other)
    samples = [sample for group in record.groups for sample in group.samples]
    tokens = sum(len(sample.tokens) for sample in samples)
    expected = 0.0
    for row in work.batch.rows:
        ratios = zip(logprobs_of(base, state, row), row.logprobs, strict=True)
        total = math.fsum(math.exp(p - q) for p, q in ratios) * row.advantage
        divisor = {
            "token_mean": tokens,
            "sequence_mean": len(samples) * len(row.tokens),
            "constant": len(samples) * LENGTH,
        }[aggregation]
        expected -= total / divisor
    assert metrics[0]["loss:mean"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("loss", ["clip", "dppo", "mis"])
def test_a_pass_reports_what_its_bound_left_out(
    loss: PolicyLoss, base: ResidentBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    low, high = BOUNDS[loss]
    state = state_of(base, lora)
    work = work_of("grpo", make_record(), PolicyGradient(loss=loss, clip_low=low, clip_high=high))
    (metrics,), _ = passed(base, state, work)
    pairs = [
        (p, q, row.advantage)
        for row in work.batch.rows
        for p, q in zip(logprobs_of(base, state, row), row.logprobs, strict=True)
    ]
    ratios = [math.exp(p - q) for p, q, _ in pairs]
    acts = {
        "clip": [a * r > a * min(max(r, 0.8), 1.2) for r, (*_, a) in zip(ratios, pairs, strict=True)],
        "dppo": [a * (math.exp(p) - math.exp(q)) > 0.2 * abs(a) for p, q, a in pairs],
        "mis": [not 0.5 <= r <= 2.0 for r in ratios],
    }[loss]
    assert metrics["masked_share:mean"] == pytest.approx(sum(acts) / len(pairs))
    assert metrics["ratio_max:max"] == pytest.approx(max(ratios), rel=1e-3)
    kl = math.fsum(r - 1 - math.log(r) for r in ratios) / len(ratios)
    assert metrics["sampler_kl:mean"] == pytest.approx(kl, rel=1e-3)
    share = math.fsum(ratios) ** 2 / (len(ratios) * math.fsum(r * r for r in ratios))
    assert metrics["effective_sample_share:mean"] == pytest.approx(share, rel=1e-3)


def test_a_kl_on_rewards_changes_advantages_and_needs_no_base_in_the_pass(
    base: ResidentBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    record, state = make_record(skipped=1), state_of(base, lora)
    gradient = PolicyGradient(advantage="centre", kl="reward")
    work = work_of("grpo", record, gradient, kl=0.3)
    beside = work_of("grpo", record, kl=0.1)  # which reads the base, for all lines of its micro-batches
    (metrics, _), _ = passed(base, state, work, beside)
    kl = {
        (row.prompt, row.tokens): math.fsum(logprobs_of(base, state, row))
        - math.fsum(logprobs_of(base, None, row))
        for row in work.batch.rows
    }
    groups = tuple(
        replace(
            group,
            samples=tuple(
                replace(one, reward=one.reward - 0.3 * kl[group.prompt_tokens, one.tokens])
                for one in group.samples
            ),
        )
        for group in record.groups
    )
    shaped = work_of("grpo", replace(record, groups=groups), replace(gradient, kl="loss"))
    (expected,), _ = passed(base, state, shaped)
    assert metrics["loss:mean"] == pytest.approx(expected["loss:mean"], rel=1e-3, abs=1e-4)
    assert metrics["kl:mean"] == pytest.approx(
        math.fsum(kl.values()) / work.batch.total_tokens, rel=1e-3, abs=1e-5
    )
