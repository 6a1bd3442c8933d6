"""Parts of a wave, and the steps on them: the same weights as PEFT, torch and TRL's order of batches."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from mint_common.events import LoraSpec, PolicyGradient
from mint_common.events.policy_gradient import TokenAggregation
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.batch import Row, build_grpo_batch
from services.trainer.core.minibatches import minibatch, minibatch_count
from services.trainer.core.wave_operations import BETAS, EPSILON, adam_step

from .managed import MANAGED
from .plain_peft import peft_twin, row_logprobs

MakeRecord = Callable[..., WaveRecord]
RATE, EPOCHS, PARTS, LENGTH = 2e-2, 3, 2, 6


@given(
    rewards=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=1, max_size=9),
    asked=st.integers(1, 12),
    pulls=st.booleans(),
)
def test_parts_have_whole_groups_once_each_and_rows(
    rewards: list[list[float]], asked: int, *, pulls: bool
) -> None:
    groups = [
        Group(
            prompt_tokens=(1, number),
            samples=tuple(Sample(tokens=(2, 3), logprobs=(-1.0, -1.0), reward=r, text="") for r in own),
        )
        for number, own in enumerate(rewards)
    ]
    record = WaveRecord(wave_id=WaveId("wave"), revision=None, groups=tuple(groups))
    batch = build_grpo_batch(record, max_new_tokens=LENGTH, pulls=pulls)
    count = minibatch_count(batch, asked=asked)
    parts = [minibatch(batch, number, count=count) for number in range(count)]
    with_rows = {row.prompt for row in batch.rows}
    assert count == max(1, min(asked, len(with_rows)))
    assert sorted(row.prompt for part in parts for row in part.rows) == sorted(r.prompt for r in batch.rows)
    owners = [{row.prompt for row in part.rows} for part in parts]
    assert sum(map(len, owners)) == len(with_rows), "a group is in one part"
    if with_rows:
        assert max(map(len, owners)) - min(map(len, owners)) <= 1
        assert all(owners)
    for name in ("total_tokens", "episodes", "skipped_groups"):
        assert sum(getattr(part, name) for part in parts) == getattr(batch, name)
    assert {(part.reward_mean, part.max_new_tokens) for part in parts} == {(batch.reward_mean, LENGTH)}


def reference_loss(
    twin: torch.nn.Module, rows: list[Row], aggregation: TokenAggregation, *, tokens: int, episodes: int
) -> torch.Tensor:
    """Return PPO's clipped loss of some answers, as the papers have it: one after another."""
    terms = []
    for row in rows:
        ratio = torch.exp(row_logprobs(twin, row) - torch.tensor(row.logprobs))
        gained = torch.minimum(ratio * row.advantage, ratio.clamp(0.8, 1.28) * row.advantage)
        terms.append(gained.mean() if aggregation == "sequence_mean" else gained.sum())
    divisor = {"token_mean": tokens, "sequence_mean": episodes, "constant": episodes * LENGTH}[aggregation]
    return -torch.stack(terms).sum() / divisor


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_epochs_of_minibatches_lead_to_the_weights_of_torch(
    aggregation: TokenAggregation,
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    """TRL's order: the parts of a generation in turn, as often as ``num_iterations`` says.

    The sampler's log-probabilities are those of the wave at every step.
    """
    gradient = PolicyGradient(
        loss="clip", clip_low=0.8, clip_high=1.28, aggregation=aggregation, epochs=EPOCHS, minibatches=PARTS
    )
    algorithm = MANAGED.named("grpo", gradient, max_new_tokens=LENGTH)
    config = algorithm.training.config(0.0, "none")
    base = make_base(make_model())
    state = new_state(base.facts, lora)
    twin = peft_twin(make_model(), lora, state.lora)
    record = near(make_record(groups=5, skipped=1), twin)
    batch = algorithm.build_batch(record)
    weights = [weight for name, weight in twin.named_parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    # Groups 1, 3 and the skipped one, then 2 and 4.
    prompts = [[record.groups[n].prompt_tokens for n in own] for own in ((1, 3, 0), (2, 4))]
    bounded = 0.0
    for _ in range(EPOCHS):
        for number, own in enumerate(prompts):
            work = algorithm.wave_batch(minibatch(batch, number, count=PARTS), config)
            passes = [PolicyPass(lora=state.lora, step=state.step, work=work)]
            (passed,) = run_policy_passes(base, passes, max_tokens=64)
            bounded += passed.metrics["masked_share:mean"]
            take_steps([state], [adam_step(learning_rate=RATE, clip_norm=1.0)])

            answers = [
                len(sample.tokens) for g in record.groups if g.prompt_tokens in own for sample in g.samples
            ]
            rows = [row for row in batch.rows if row.prompt in own]
            loss = reference_loss(twin, rows, aggregation, tokens=sum(answers), episodes=len(answers))
            assert passed.metrics["loss:mean"] == pytest.approx(float(loss.detach()), rel=1e-3, abs=1e-5)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            adam.step()
    assert bounded > 0, "the bound acts once the weights have moved"
    assert state.step == EPOCHS * PARTS
    theirs = peft_weights(twin)
    before = {name: view.clone() for name, view in new_state(base.facts, lora).lora.named()}
    for name, view in state.lora.named():
        # Adam's steps are of about the rate, whatever the gradient: a tenth of one is far from rounding.
        assert torch.allclose(view, theirs[name], atol=RATE / 50), name
        assert not torch.allclose(view, before[name], atol=RATE)


def near(record: WaveRecord, twin: torch.nn.Module) -> WaveRecord:
    """Return a record whose answers have the log-probabilities of a model, as a sampler has them."""

    def own(group: Group, sample: Sample) -> Sample:
        row = Row(prompt=group.prompt_tokens, tokens=sample.tokens, logprobs=(), advantage=0.0)
        return replace(sample, logprobs=tuple(row_logprobs(twin, row).tolist()))

    groups = [
        replace(group, samples=tuple(own(group, sample) for sample in group.samples))
        for group in record.groups
    ]
    return replace(record, groups=tuple(groups))


def peft_weights(twin: torch.nn.Module) -> dict[str, torch.Tensor]:
    import peft

    found: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(twin)
    return found
