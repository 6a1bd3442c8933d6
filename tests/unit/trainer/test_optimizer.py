"""Clipping and AdamW of many policies: torch's own numbers, and those of each policy alone."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.adapters_format import BaseFacts
from mint_common.events import LoraSpec
from services.trainer.adapters.states.training_state import BETAS, TrainingState, new_state, write_state
from services.trainer.adapters.training.optimizer import clip_gradients, step_optimizers

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


def test_many_at_once_equal_each_alone_bit_for_bit(facts: BaseFacts, lora: LoraSpec) -> None:
    together, alone = states_of(facts, lora), states_of(facts, lora)
    for seed in range(STEPS):
        norms = clip_gradients(with_gradients(together, seed=seed), CLIPS)
        largest = step_optimizers(together, RATES)
        for number, state in enumerate(with_gradients(alone, seed=seed)):
            assert clip_gradients([state], [CLIPS[number]]) == [norms[number]]
            assert step_optimizers([state], [RATES[number]]) == [largest[number]]
    for one, other in zip(together, alone, strict=True):
        one.step = other.step = STEPS
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
        step_optimizers(states, RATES)
    for state, twin in zip(states, twins, strict=True):
        assert torch.allclose(state.lora.leaf, twin, atol=1e-6, rtol=0)


def test_what_is_not_finite_shows_and_scales_nothing(facts: BaseFacts, lora: LoraSpec) -> None:
    states = with_gradients(states_of(facts, lora), seed=0)
    states[1].lora.leaf.grad[3] = math.inf
    before = [state.lora.leaf.grad.clone() for state in states]
    norms = clip_gradients(states, (0.0,) * 4)
    assert [math.isfinite(norm) for norm in norms] == [True, False, True, True]
    assert all(torch.equal(state.lora.leaf.grad, old) for state, old in zip(states, before, strict=True))
    states[2].lora.leaf.detach()[0] = math.nan
    largest = step_optimizers([states[0], states[2]], (1e-3, 1e-3))
    assert math.isfinite(largest[0])
    assert math.isnan(largest[1])
