"""The learning rate of a job's steps is that of transformers' schedulers, bit for bit."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from mint_common.events.job import LearningRateSchedule
from services.trainer.core.wave_operations import WaveExport, learning_rate_at

from .test_wave_operations import WAVE, planned

NAMES: dict[LearningRateSchedule, str] = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
}


@given(
    st.sampled_from(get_args(LearningRateSchedule)),
    st.integers(1, 40),
    st.integers(0, 45),
    st.floats(1e-7, 1.0),
)
def test_the_rate_of_a_step_is_that_of_transformers(
    schedule: LearningRateSchedule, steps: int, warmup: int, rate: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = get_scheduler(NAMES[schedule], optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    spec = replace(WAVE.spec, schedule=schedule, steps=steps, warmup_steps=warmup, learning_rate=rate)
    for step in range(1, steps + 1):
        assert learning_rate_at(spec, step) == scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("step", "rate"), [(1, 0.0), (2, 1e-3), (3, 2e-3), (4, 1e-3)])
def test_a_wave_steps_at_the_rate_of_its_step_and_tells_it(step: int, rate: float) -> None:
    spec = replace(WAVE.spec, schedule="linear", warmup_steps=2, steps=4)
    wave = planned(replace(WAVE, spec=spec, step=step))
    step_operation, export = [*wave.operations.values()][-2:]
    assert isinstance(export, WaveExport)
    assert step_operation.learning_rate == export.learning_rate == pytest.approx(rate)  # type: ignore[union-attr]  # a step
