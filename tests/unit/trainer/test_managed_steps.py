"""A managed step is what a client's pass and step are: the same gradient, clip and AdamW."""

from collections.abc import Callable
from dataclasses import replace

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
from services.trainer.core.batch import Row
from services.trainer.core.wave_operations import adam_step
from tests.unit.trainer.managed import MANAGED

from .managed import StepSettings, Work, masked, step_policies
from .test_lora import with_random_b
from .test_passes import floats, ints

LOSSES: dict[str, LossName] = {"sft": "cross_entropy", "grpo": "importance_sampling"}


def datum_of(row: Row, *, loss: LossName, tokens: int) -> Datum:
    """Return a row as a client would send it, with its share of the mean over the step's tokens."""
    ids = np.array([*row.prompt, *row.tokens])
    hidden, answered = [0.0] * (len(row.prompt) - 1), len(row.tokens)
    inputs = {"target_tokens": ints(ids[1:])}
    if loss == "cross_entropy":
        ranges = row.trained or ((0, answered),)
        trained = [float(any(start <= n < end for start, end in ranges)) for n in range(answered)]
        inputs["weights"] = floats(np.array([*hidden, *trained]) / tokens)
    else:
        inputs["logprobs"] = floats(np.array([*hidden, *row.logprobs]))
        inputs["advantages"] = floats(np.array([*hidden, *[row.advantage / tokens] * answered]))
    return Datum(tokens=ids[:-1].astype("<i4").tobytes(), inputs=inputs)


@pytest.mark.parametrize(("algorithm", "is_masked"), [("grpo", False), ("sft", False), ("sft", True)])
def test_a_managed_step_is_a_clients_pass_and_step(
    algorithm: str,
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
    *,
    is_masked: bool,
) -> None:
    base = make_base(make_model())
    managed, client = new_state(base.facts, lora), new_state(base.facts, lora)
    for state in (managed, client):
        with_random_b(state.lora)
    record = make_record(skipped=1)
    batch = MANAGED.named(algorithm).build_batch(masked(record) if is_masked else record)
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


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "grpo"])
def test_ranges_that_leave_nothing_out_change_no_bit(
    algorithm: str,
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
) -> None:
    base = make_base(make_model())
    settings = StepSettings(algorithm=algorithm, learning_rate=1e-3, kl_coefficient=0.1, clip_norm=0.1)
    found = []
    for record in (make_record(skipped=1), fully_trained(make_record(skipped=1))):
        work = Work(
            state=new_state(base.facts, lora),
            batch=MANAGED.named(algorithm).build_batch(record),
            settings=settings,
        )
        with_random_b(work.state.lora)
        (metrics,) = step_policies(base, [work], max_tokens=64)
        found.append((metrics, work.state.lora.leaf.detach()))
    (plain, plain_leaf), (ranged, ranged_leaf) = found
    assert plain == ranged
    assert torch.equal(plain_leaf, ranged_leaf)


def fully_trained(record: WaveRecord) -> WaveRecord:
    """Return a record that says of every sample that all of its tokens are trained."""
    groups = [
        replace(group, samples=tuple(replace(one, trained=((0, len(one.tokens)),)) for one in group.samples))
        for group in record.groups
    ]
    return replace(record, groups=tuple(groups))


def test_the_loss_is_the_mean_over_trained_tokens(
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
) -> None:
    base, model = make_base(make_model()), make_model()
    record = masked(make_record(groups=4, samples=2))
    terms = []
    for group in record.groups:
        for sample in group.samples:
            ids = torch.tensor([*group.prompt_tokens, *sample.tokens])
            logprobs = model(ids[None]).logits[0].double().log_softmax(-1)
            for start, end in sample.trained:
                places = range(len(group.prompt_tokens) + start, len(group.prompt_tokens) + end)
                terms += [-float(logprobs[place - 1, ids[place]].detach()) for place in places]
    settings = StepSettings(algorithm="sft", learning_rate=0.0, kl_coefficient=0.0, clip_norm=0.0)
    work = Work(
        state=new_state(base.facts, lora), batch=MANAGED.named("sft").build_batch(record), settings=settings
    )
    (metrics,) = step_policies(base, [work], max_tokens=32)
    assert isinstance(metrics, dict)
    assert metrics["loss"] == pytest.approx(np.mean(terms), rel=1e-5)
    assert (metrics["tokens"], metrics["trained_tokens"]) == (len(terms), len(terms))
