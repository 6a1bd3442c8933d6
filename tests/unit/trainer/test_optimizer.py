"""Clipping and AdamW of many policies: torch's own numbers, and those of each policy alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.adapters_format import BaseFacts
from mint_common.events import LoraSpec
from mint_common.training import Step, Stepped
from services.trainer.adapters.states.training_state import TrainingState, new_state, write_state
from services.trainer.adapters.training.optimizer import clip_gradients, take_steps
from services.trainer.core.refusals import NotFinite
from services.trainer.core.wave_operations import BETAS, EPSILON

from .conftest import facts_of

CLIPS, RATES = (0.5, 0.0, 1e6, 0.01), (1e-3, 1e-3, 2e-3, 1e-3)
STEPS = 3


@pytest.fixture
def facts(make_model: Callable[[], PreTrainedModel]) -> BaseFacts:
    return facts_of(make_model())


def with_gradients(states: list[TrainingState], *, seed: int) -> list[TrainingState]:
    for number, state in enumerate(states):
        generator = torch.Generator().manual_seed(100 * seed + number)
        state.lora.leaf.grad = torch.randn(state.lora.leaf.shape, generator=generator)
    return states


def states_of(facts: BaseFacts, lora: LoraSpec) -> list[TrainingState]:
    return [new_state(facts, replace(lora, rank=rank, seed=rank)) for rank in (4, 2, 4, 3)]


def adam(clips: Sequence[float]) -> list[Step]:
    beta1, beta2 = BETAS
    return [
        Step(learning_rate=rate, beta1=beta1, beta2=beta2, eps=EPSILON, weight_decay=0.0, clip_norm=clip)
        for rate, clip in zip(RATES, clips, strict=True)
    ]


def test_many_at_once_equal_each_alone_bit_for_bit(facts: BaseFacts, lora: LoraSpec) -> None:
    together, alone = states_of(facts, lora), states_of(facts, lora)
    for seed in range(STEPS):
        taken = take_steps(with_gradients(together, seed=seed), adam(CLIPS))
        for number, state in enumerate(with_gradients(alone, seed=seed)):
            assert take_steps([state], adam(CLIPS)[number : number + 1]) == [taken[number]]
    for one, other in zip(together, alone, strict=True):
        assert one.step == STEPS
        assert write_state(one) == write_state(other)
        assert one.lora.leaf.grad is None


def test_they_are_torchs_own(facts: BaseFacts, lora: LoraSpec) -> None:
    states = states_of(facts, lora)
    twins = [torch.nn.Parameter(state.lora.leaf.detach().clone()) for state in states]
    optimizers = [
        torch.optim.AdamW([twin], lr=rate, betas=BETAS, weight_decay=0.0)
        for twin, rate in zip(twins, RATES, strict=True)
    ]
    for seed in range(STEPS):
        clip_gradients(with_gradients(states, seed=seed), CLIPS)
        for number, (twin, optimizer) in enumerate(zip(twins, optimizers, strict=True)):
            generator = torch.Generator().manual_seed(100 * seed + number)
            twin.grad = torch.randn(twin.shape, generator=generator)
            torch.nn.utils.clip_grad_norm_([twin], CLIPS[number] or math.inf)
            assert torch.allclose(states[number].lora.leaf.grad, twin.grad, atol=1e-7, rtol=1e-6)
            optimizer.step()
        take_steps(states, adam((0.0,) * 4))
    for state, twin in zip(states, twins, strict=True):
        assert torch.allclose(state.lora.leaf, twin, atol=1e-6, rtol=0)


def test_without_a_gradient_a_step_is_one_on_zeros(facts: BaseFacts, lora: LoraSpec) -> None:
    (state, *_) = states_of(facts, lora)
    before = state.lora.leaf.detach().clone()
    (taken,) = take_steps([state], adam(CLIPS)[:1])
    assert isinstance(taken, Stepped)
    assert (taken.step, taken.metrics["grad_norm:mean"]) == (1, 0.0)
    assert torch.equal(state.lora.leaf, before)


def test_what_is_not_finite_is_refused_alone(facts: BaseFacts, lora: LoraSpec) -> None:
    states, calm = with_gradients(states_of(facts, lora), seed=0), states_of(facts, lora)
    states[1].lora.leaf.grad[3] = math.inf
    states[2].lora.leaf.detach()[0] = math.nan
    before = states[1].lora.leaf.detach().clone()
    taken = take_steps(states, adam(CLIPS))
    expected = take_steps(with_gradients(calm, seed=0), adam(CLIPS))
    assert (taken[0], taken[3]) == (expected[0], expected[3])
    for number, what in ((1, "gradient norm"), (2, "largest weight")):
        refusal = taken[number]
        assert isinstance(refusal, NotFinite)
        assert refusal.what == what
    assert torch.equal(states[1].lora.leaf, before)
    assert [state.step for state in states] == [1, 0, 0, 1]
    assert all(state.lora.leaf.grad is None for state in states)
    assert write_state(states[0]) == write_state(calm[0])
