"""DPO steps: the gradient of the loss itself, however its rows are cut, alone or beside other policies."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.core.batch import Batch, Row, build_dpo_batch, build_grpo_batch
from services.trainer.core.packing import PackedSequence
from services.trainer.core.refusals import NotFinite

from .managed import StepSettings, Work, masked, step_policies
from .test_lora import with_random_b

BETA = 0.5
DPO = StepSettings(algorithm="dpo", learning_rate=2e-3, kl_coefficient=BETA, clip_norm=0.0)
MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


def policy(base: ResidentBase, lora: LoraSpec) -> TrainingState:
    """Return a policy that is no longer its base."""
    state = new_state(base.facts, lora)
    with_random_b(state.lora)
    return state


def moved(base: ResidentBase, state: TrainingState, row: Row) -> Tensor:
    """Return how far the policy is from the base on one answer, with its gradient."""
    line = PackedSequence(policy=0, rows=(row,))
    return (base.score([line], [state.lora]).logprobs_T - base.score([line]).logprobs_T.detach()).sum()


def naive_loss(base: ResidentBase, state: TrainingState, batch: Batch) -> Tensor:
    """Return DPO's loss as the paper writes it, one sequence after another."""
    pairs = zip(batch.rows[::2], batch.rows[1::2], strict=True)
    margins = [BETA * (moved(base, state, better) - moved(base, state, worse)) for better, worse in pairs]
    return -torch.stack([torch.log(torch.sigmoid(margin)) for margin in margins]).mean()


@pytest.mark.parametrize("max_tokens", [8, 64, 1000], ids=["pairs cut apart", "some together", "one batch"])
def test_the_step_follows_the_gradient_of_the_loss(
    max_tokens: int, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    batch = build_dpo_batch(make_record(groups=5, skipped=1))
    state = policy(base, lora)
    loss = naive_loss(base, state, batch)
    loss.backward()
    gradient = state.lora.leaf.grad
    assert gradient is not None
    norm, before = float(gradient.norm()), state.lora.leaf.detach().clone()
    state.lora.leaf.grad = None

    (metrics,) = step_policies(base, [Work(state=state, batch=batch, settings=DPO)], max_tokens=max_tokens)

    assert isinstance(metrics, dict)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert (metrics["pairs"], metrics["skipped_groups"]) == (4, 1)
    # Adam's first step is the sign of the gradient, wherever that is more than rounding.
    change = state.lora.leaf.detach() - before
    clear = gradient.abs() > 1e-4 * gradient.abs().max()
    assert torch.equal(torch.sign(change)[clear], -torch.sign(gradient)[clear])


def test_pairs_of_a_file_are_compared_by_their_trained_tokens(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    batch = build_dpo_batch(masked(make_record(groups=5, skipped=1)))
    state = policy(base, lora)
    loss = naive_loss(base, state, batch)
    loss.backward()
    gradient = state.lora.leaf.grad
    assert gradient is not None
    state.lora.leaf.grad = None
    (metrics,) = step_policies(base, [Work(state=state, batch=batch, settings=DPO)], max_tokens=64)
    assert isinstance(metrics, dict)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert metrics["trained_tokens"] < sum(len(row.tokens) for row in batch.rows)
    assert not {"ratio_max_error", "sampler_kl"} & metrics.keys()


def test_a_fresh_policy_prefers_nothing_and_learns_to(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    batch = build_dpo_batch(make_record(groups=6))
    state = new_state(base.facts, lora)
    works = [Work(state=state, batch=batch, settings=replace(DPO, learning_rate=2e-2))]
    history = []
    for _ in range(20):
        (metrics,) = step_policies(base, works, max_tokens=64)
        assert isinstance(metrics, dict)
        history.append(metrics)
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(math.log(2))
    assert (first["preference_margin"], first["preference_accuracy"]) == (0.0, 0.0)
    assert last["preference_accuracy"] == 1.0
    assert last["preference_margin"] > 1.0
    assert last["chosen_reward"] > last["rejected_reward"]
    assert last["loss"] < first["loss"] / 2


def test_policies_of_other_algorithms_share_the_pass(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    grpo = replace(DPO, algorithm="grpo", kl_coefficient=0.2)
    works = [
        (build_dpo_batch(make_record(seed=1)), DPO),
        (build_grpo_batch(make_record(seed=2)), grpo),
        (build_dpo_batch(make_record(seed=3, skipped=3)), DPO),
        (build_dpo_batch(make_record(seed=4)), replace(DPO, kl_coefficient=0.1)),
    ]

    def step(chosen: slice) -> list[dict[str, float] | NotFinite]:
        todo = [Work(state=policy(base, lora), batch=batch, settings=how) for batch, how in works[chosen]]
        return step_policies(base, todo, max_tokens=64)

    together = step(slice(None))
    for number, found in enumerate(together):
        (alone,) = step(slice(number, number + 1))
        assert isinstance(found, dict)
        assert isinstance(alone, dict)
        assert found == pytest.approx(alone, rel=1e-4, abs=1e-6)
    nothing = together[2]
    assert isinstance(nothing, dict)
    assert (nothing["trained_tokens"], nothing["loss"]) == (0, 0.0)
    assert "pairs" not in nothing


def test_a_spoilt_policy_is_refused_alone(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    states = [policy(base, lora), policy(base, lora)]
    states[0].lora.leaf.detach()[::7] = math.nan
    batch = build_dpo_batch(make_record())
    works = [Work(state=state, batch=batch, settings=DPO) for state in states]
    spoilt, sound = step_policies(base, works, max_tokens=64)
    assert isinstance(spoilt, NotFinite)
    assert spoilt.what == "loss"
    assert isinstance(sound, dict)
    assert [state.step for state in states] == [0, 1]
