"""Steps and checkpoints: equal to PEFT with AdamW, bitwise resumable, isolated, refused when not finite."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from services.trainer.adapters.lora.tensors import new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state, read_state, write_state
from services.trainer.core.advantages import group_advantages
from services.trainer.core.batch import Batch, Row, build_grpo_batch, build_sft_batch
from services.trainer.core.mismatch_rules import BAND, TRUNCATED_AT, Mismatch
from services.trainer.core.packing import PackedSequence
from services.trainer.core.refusals import NotFinite
from tests.unit.trainer.managed import MANAGED

from .managed import StepSettings, Work, step_policies
from .plain_peft import peft_twin, row_logprobs
from .test_lora import with_random_b

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


def step(
    base: ResidentBase,
    state: TrainingState,
    batch: Batch,
    settings: StepSettings = GRPO,
    *,
    max_tokens: int = 4096,
) -> dict[str, float]:
    work = Work(state=state, batch=batch, settings=settings)
    (metrics,) = step_policies(base, [work], max_tokens=max_tokens)
    if isinstance(metrics, NotFinite):
        raise metrics
    return metrics


def peft_grpo_step(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, record: WaveRecord) -> float:
    """Take the same step the plain way: row by row, all logits, PEFT's layers, torch's AdamW."""
    total = sum(len(sample.tokens) for group in record.groups for sample in group.samples)
    loss = torch.zeros(())
    for group in record.groups:
        for sample, advantage in zip(
            group.samples, group_advantages([s.reward for s in group.samples]) or (), strict=False
        ):
            row = Row(prompt=group.prompt_tokens, tokens=sample.tokens, logprobs=(), advantage=0.0)
            ratio = torch.exp(row_logprobs(twin, row) - torch.tensor(sample.logprobs))
            loss = loss - (ratio * advantage).sum() / total
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return float(loss.detach())


def test_steps_equal_a_separate_peft_run(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    state = new_state(base.facts, lora)
    twin = peft_twin(make_model(), lora, new_lora(base.facts, lora))
    trainable = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for seed in range(4):
        record = make_record(seed=seed, skipped=seed % 2)
        metrics = step(base, state, build_grpo_batch(record), max_tokens=40)
        assert metrics["loss"] == pytest.approx(peft_grpo_step(twin, optimizer, record), abs=1e-4)
    theirs = dict(twin.named_parameters())
    for name, leaf in state.lora.named():
        twin_leaf = theirs[name.replace(".weight", ".default.weight")]
        # Adam divides by sqrt(v): where a gradient is near zero, rounding decides the direction of the step.
        assert torch.allclose(leaf, twin_leaf, atol=2e-4, rtol=0), name


def test_a_step_does_not_depend_on_how_it_is_cut(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    whole, cut = new_state(base.facts, lora), new_state(base.facts, lora)
    batch = build_grpo_batch(make_record())
    first = step(base, whole, batch)
    second = step(base, cut, batch, max_tokens=1)
    for name in ("loss", "grad_norm", "ratio_max_error"):
        assert first[name] == pytest.approx(second[name], rel=1e-4, abs=1e-6)


def test_fresh_rollouts_have_ratio_one_and_the_first_loss_is_zero(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    state = new_state(base.facts, lora)
    batch = build_grpo_batch(make_record())
    with torch.no_grad():
        rows = tuple(
            replace(
                row, logprobs=tuple(base.score([PackedSequence(policy=0, rows=(row,))]).logprobs_T.tolist())
            )
            for row in batch.rows
        )
    metrics = step(base, state, replace(batch, rows=rows), replace(GRPO, kl_coefficient=0.1))
    assert metrics["ratio_max_error"] < 1e-4
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)


def test_kl_pulls_back_to_the_base(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    distances = []
    for coefficient in (0.0, 1.0):
        state = new_state(base.facts, lora)
        for seed in range(6):
            step(
                base,
                state,
                build_grpo_batch(make_record(seed=seed)),
                replace(GRPO, kl_coefficient=coefficient),
            )
        probe = step(
            base,
            state,
            build_grpo_batch(make_record(seed=9)),
            replace(GRPO, kl_coefficient=1e-9, learning_rate=1e-9),
        )
        distances.append(probe["kl"])
    assert distances[1] < distances[0]


@pytest.mark.parametrize("mismatch", ["none", "band"])
@pytest.mark.parametrize("skipped", [1, 3])
def test_the_kl_term_is_the_mean_over_every_token_of_the_wave(
    mismatch: Mismatch, skipped: int, make_model: MakeModel, make_base: MakeBase, make_record: MakeRecord
) -> None:
    """GRPO's eq. 3 and 4 (arXiv 2402.03300), row by row: without a signal and beyond a band too."""
    lora = LoraSpec(rank=4, alpha=8.0, targets=("q_proj", "v_proj"), seed=7)
    base, bare = make_base(make_model()), make_model()
    state = new_state(base.facts, lora)
    with_random_b(state.lora)
    twin = peft_twin(make_model(), lora, state.lora)
    record = make_record(skipped=skipped)
    total = sum(len(sample.tokens) for group in record.groups for sample in group.samples)
    gain, pull = torch.zeros(()), torch.zeros(())
    for group in record.groups:
        advantages = group_advantages([s.reward for s in group.samples]) or (0.0,) * len(group.samples)
        for sample, advantage in zip(group.samples, advantages, strict=True):
            row = Row(prompt=group.prompt_tokens, tokens=sample.tokens, logprobs=(), advantage=0.0)
            lp = row_logprobs(twin, row)
            moved = lp - row_logprobs(bare, row).detach()
            k2, k3 = moved**2 / 2, (-moved).exp() - 1 + moved
            ratio = torch.exp(lp - torch.tensor(sample.logprobs))
            inside = (ratio >= BAND[0]) & (ratio <= BAND[1]) if mismatch == "band" else ratio > 0
            # Other weights sampled the record; outside a band the ratio is not to be trusted.
            weight = torch.where(inside, ratio.detach().clamp(max=TRUNCATED_AT), 1.0)
            # k3's value, k2's gradient
            pull = pull + (weight * (k3.detach() + k2 - k2.detach())).sum() / total
            gain = gain + (ratio * advantage)[inside].sum() / total
    loss = 0.3 * pull - gain
    loss.backward()
    gradients = [one.grad for one in twin.parameters() if one.requires_grad]
    norm = torch.stack([one.norm() for one in gradients]).norm()
    settings = replace(GRPO, kl_coefficient=0.3, mismatch=mismatch)
    metrics = step(base, state, MANAGED.named("grpo").build_batch(record, pulls=True), settings)
    assert metrics["kl"] == pytest.approx(float(pull.detach()), rel=1e-3)
    # What is outside a band has no part in the gradient, but the ratio of 1 that stands for it in the loss.
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    if mismatch == "none":
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-3, abs=1e-4)


def test_sft_lowers_the_loss_and_reports_no_ratio(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    state = new_state(base.facts, lora)
    batch = build_sft_batch(make_record(samples=1))
    losses = [step(base, state, batch, replace(GRPO, algorithm="sft", learning_rate=1e-2)) for _ in range(8)]
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.1
    assert "ratio_max_error" not in losses[0]


def test_checkpoint_round_trip_is_bitwise(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    state = new_state(base.facts, lora)
    step(base, state, build_grpo_batch(make_record()))
    data = write_state(state)
    again = read_state(base.facts, lora, data)
    assert write_state(again) == data
    assert again.step == 1


def test_a_restored_run_is_bitwise_the_undisturbed_one(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    undisturbed, restored = new_state(base.facts, lora), new_state(base.facts, lora)
    for seed in range(4):
        batch = build_grpo_batch(make_record(seed=seed))
        step(base, undisturbed, batch)
        step(base, restored, batch)
        restored = read_state(make_base(make_model()).facts, lora, write_state(restored))
    assert write_state(restored) == write_state(undisturbed)


def test_training_one_policy_leaves_the_other_s_bytes_alone(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    a, alone = new_state(base.facts, lora), new_state(base.facts, lora)
    b = new_state(base.facts, replace(lora, rank=2, seed=3))
    first, second = build_grpo_batch(make_record(seed=0)), build_grpo_batch(make_record(seed=1))
    for batch in (first, second):
        step(base, alone, batch)
    step(base, a, first)
    before = write_state(a)
    step(base, b, second)
    assert write_state(a) == before
    step(base, a, second)
    assert write_state(a) == write_state(alone)


@pytest.mark.parametrize("changes", [{"rank": 2}, {"targets": ("q_proj", "v_proj")}])
def test_a_checkpoint_of_another_shape_is_refused(
    changes: dict[str, int],
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    base = make_base(make_model())
    small = replace(lora, targets=("k_proj",)) if "targets" in changes else lora
    state = new_state(base.facts, small)
    step(base, state, build_grpo_batch(make_record()))
    with pytest.raises(ValueError, match=r"is due|not a checkpoint"):
        read_state(base.facts, replace(lora, **changes), write_state(state))


def test_garbage_is_not_a_checkpoint(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        read_state(make_base(make_model()).facts, lora, b"garbage")


@pytest.mark.parametrize("settings", [GRPO, replace(GRPO, clip_norm=0.0)])
def test_a_step_that_is_not_finite_is_refused(
    settings: StepSettings,
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    base = make_base(make_model())
    batch = build_grpo_batch(make_record())
    wild = tuple(replace(row, logprobs=(-1e4,) * len(row.tokens)) for row in batch.rows)
    with pytest.raises(NotFinite, match="stays at step 0"):
        step(base, new_state(base.facts, lora), replace(batch, rows=wild), settings)
