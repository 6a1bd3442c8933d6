"""A managed step is what a client's pass and step are: the same gradient, clip and AdamW."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from mint_common.training import Datum, LossName, Pass, Stepped
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.algorithms import build_batch
from services.trainer.core.batch import Row
from services.trainer.core.wave_operations import adam_step

from .managed import StepSettings, Work, step_policies
from .test_lora import with_random_b
from .test_passes import floats, ints

LOSSES: dict[str, LossName] = {"sft": "cross_entropy", "grpo": "importance_sampling"}


def datum_of(row: Row, *, loss: LossName, tokens: int) -> Datum:
    """Return a row as a client would send it, with its share of the mean over the step's tokens."""
    ids = np.array([*row.prompt, *row.tokens])
    hidden, answered = [0.0] * (len(row.prompt) - 1), len(row.tokens)
    inputs = {"target_tokens": ints(ids[1:])}
    if loss == "cross_entropy":
        inputs["weights"] = floats(np.array([*hidden, *[1 / tokens] * answered]))
    else:
        inputs["logprobs"] = floats(np.array([*hidden, *row.logprobs]))
        inputs["advantages"] = floats(np.array([*hidden, *[row.advantage / tokens] * answered]))
    return Datum(tokens=ids[:-1].astype("<i4").tobytes(), inputs=inputs)


@pytest.mark.parametrize("algorithm", LOSSES)
def test_a_managed_step_is_a_clients_pass_and_step(
    algorithm: str,
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
) -> None:
    base = make_base(make_model())
    managed, client = new_state(base.facts, lora), new_state(base.facts, lora)
    for state in (managed, client):
        with_random_b(state.lora)
    batch = build_batch(algorithm, make_record(skipped=1))
    settings = StepSettings(algorithm=algorithm, learning_rate=1e-3, kl_coefficient=0.0, clip_norm=0.1)
    (metrics,) = step_policies(base, [Work(state=managed, batch=batch, settings=settings)], max_tokens=64)
    loss = LOSSES[algorithm]
    data = tuple(datum_of(row, loss=loss, tokens=batch.total_tokens) for row in batch.rows)
    work = Pass(data=data, loss=loss, config={}, backward=True)
    run_policy_passes(base, [PolicyPass(lora=client.lora, step=0, work=work)], max_tokens=64)
    (taken,) = take_steps([client], [adam_step(learning_rate=1e-3, clip_norm=0.1)])
    assert isinstance(metrics, dict)
    assert isinstance(taken, Stepped)
    assert metrics["grad_norm"] == pytest.approx(taken.metrics["grad_norm:mean"], rel=1e-4)
    for name, moment in managed.moments.items():
        assert torch.allclose(moment, client.moments[name], atol=1e-6, rtol=1e-4)
