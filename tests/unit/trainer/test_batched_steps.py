"""Several policies in one batched step: each as if it were alone, whatever is wrong with another."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from services.trainer.adapters.lora.tensors import new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state, write_state
from services.trainer.core.batch import Batch, build_grpo_batch, build_sft_batch
from services.trainer.core.packing import pack_rows
from services.trainer.core.refusals import NotFinite

from .managed import StepSettings, Work, step_policies
from .plain_peft import gradients_of, peft_twin, row_logprobs
from .test_lora import with_random_b

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
SFT = replace(GRPO, algorithm="sft")
MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


def specs_of(lora: LoraSpec) -> list[LoraSpec]:
    """Differing ranks, scales and targets."""
    return [
        lora,
        replace(lora, rank=2, seed=1),
        replace(lora, rank=3, alpha=5.0, targets=("o_proj", "up_proj"), seed=2),
        replace(lora, seed=3),
    ]


@pytest.mark.parametrize("samples", [(4, 4, 4, 4), (1, 6, 3, 2)], ids=["equally many", "ragged"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one shape", "mixed ranks and targets"])
@pytest.mark.parametrize("max_length", [0, 64], ids=["alone", "behind one prompt"])
def test_outputs_and_gradients_equal_separate_peft_runs(  # noqa: PLR0917  # parameters and fixtures
    samples: tuple[int, ...],
    mixed: bool,
    max_length: int,
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    base = make_base(make_model())
    specs = specs_of(lora) if mixed else [replace(lora, seed=seed) for seed in range(4)]
    policies = [with_random_b(new_lora(base.facts, spec)) for spec in specs]
    batches = [build_sft_batch(make_record(seed=n, samples=count)) for n, count in enumerate(samples)]
    lines = [
        line
        for number, batch in enumerate(batches)
        for line in pack_rows(batch.rows, policy=number, max_length=max_length)
    ]
    ours = base.score(lines, policies).logprobs_T
    sizes = [sum(len(row.tokens) for row in batch.rows) for batch in batches]
    torch.stack([own.square().mean() for own in ours.split(sizes)]).sum().backward()
    for number, (spec, own) in enumerate(zip(specs, ours.split(sizes), strict=True)):
        twin = peft_twin(make_model(), spec, policies[number])
        rows = [row for line in lines if line.policy == number for row in line.rows]
        theirs = torch.cat([row_logprobs(twin, row) for row in rows])
        assert torch.allclose(own, theirs, atol=1e-5, rtol=0)
        theirs.square().mean().backward()
        grads = {
            name.replace(".default", ""): parameter.grad
            for name, parameter in twin.named_parameters()
            if parameter.requires_grad
        }
        for name, gradient in gradients_of(policies[number]):
            assert torch.allclose(gradient, grads[name], atol=1e-5, rtol=0), name


def distance(one: TrainingState, other: TrainingState) -> float:
    """Return how far two policies are apart, on average over their weights."""
    return float((one.lora.leaf.detach() - other.lora.leaf.detach()).abs().mean())


def step_together(
    base: ResidentBase, works: list[tuple[TrainingState, Batch, StepSettings]]
) -> list[dict[str, float] | NotFinite]:
    return step_policies(
        base,
        [Work(state=state, batch=batch, settings=settings) for state, batch, settings in works],
        max_tokens=64,
    )


def test_a_batched_step_equals_steps_alone(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    specs = specs_of(lora)
    settings = [GRPO, SFT, replace(GRPO, kl_coefficient=0.5), replace(GRPO, clip_norm=0.0)]
    batches = [
        (build_sft_batch if how.algorithm == "sft" else build_grpo_batch)(make_record(seed=number, skipped=1))
        for number, how in enumerate(settings)
    ]
    together = [new_state(base.facts, spec) for spec in specs]
    alone = [new_state(base.facts, spec) for spec in specs]
    results = step_together(base, list(zip(together, batches, settings, strict=True)))
    for number, found in enumerate(results):
        (expected,) = step_together(base, [(alone[number], batches[number], settings[number])])
        assert isinstance(found, dict)
        assert isinstance(expected, dict)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        # Adam's first step is the sign of a gradient: where that is near zero, rounding decides.
        assert torch.allclose(together[number].lora.leaf, alone[number].lora.leaf, atol=4e-3, rtol=0)
        assert distance(together[number], alone[number]) < 1e-5


@pytest.mark.parametrize("fault", ["wild ratio", "spoilt weights", "nothing to learn"])
def test_a_faulty_policy_leaves_the_others_step_alone(
    fault: str, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    batches = [build_grpo_batch(make_record(seed=number)) for number in range(3)]

    def run(*, faulty: bool) -> tuple[list[TrainingState], list[dict[str, float] | NotFinite]]:
        states = [new_state(base.facts, replace(lora, seed=number)) for number in range(3)]
        batch = batches[1]
        if faulty and fault == "wild ratio":
            rows = tuple(replace(row, logprobs=(-1e4,) * len(row.tokens)) for row in batch.rows)
            batch = replace(batch, rows=rows)
        elif faulty and fault == "spoilt weights":
            states[1].lora.leaf.detach()[::7] = math.nan
        elif faulty:
            batch = build_grpo_batch(make_record(seed=1, skipped=3))
        works = [(states[0], batches[0], GRPO), (states[1], batch, GRPO), (states[2], batches[2], GRPO)]
        return states, step_together(base, works)

    sound, sound_results = run(faulty=False)
    states, results = run(faulty=True)
    assert isinstance(results[1], dict) == (fault == "nothing to learn")
    assert states[1].step == 0
    for number in (0, 2):
        found, expected = results[number], sound_results[number]
        assert isinstance(found, dict)
        assert isinstance(expected, dict)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert distance(states[number], sound[number]) < 1e-5


def test_training_another_a_hundred_steps_leaves_the_bytes_of_a_policy_alone(
    make_base: MakeBase, make_model: MakeModel, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    a, b = new_state(base.facts, lora), new_state(base.facts, replace(lora, seed=9))
    batch = build_grpo_batch(make_record(groups=1))
    step_together(base, [(a, batch, GRPO), (b, batch, GRPO)])
    before = write_state(a)
    for _ in range(100):
        step_together(base, [(b, batch, GRPO)])
    assert write_state(a) == before


def test_tokens_that_the_sampler_saw_differently_teach_nothing_in_a_band(
    make_base: MakeBase, make_model: MakeModel, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    band = replace(GRPO, mismatch="band")
    batch = build_grpo_batch(make_record())
    first, *others = batch.rows
    trusted = [replace(row, logprobs=(-3.7,) * len(row.tokens)) for row in others]
    wild = replace(batch, rows=(replace(first, logprobs=(-1e4,) * len(first.tokens)), *trusted))
    silent = replace(
        batch, rows=(replace(first, logprobs=(-3.7,) * len(first.tokens), advantage=0.0), *trusted)
    )
    one, other = new_state(base.facts, lora), new_state(base.facts, lora)
    (found,) = step_together(base, [(one, wild, band)])
    (expected,) = step_together(base, [(other, silent, band)])
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert found["distrusted_tokens"] == expected["distrusted_tokens"] + len(first.tokens)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
    assert distance(one, other) < 1e-6
    (none,) = step_together(base, [(new_state(base.facts, lora), wild, GRPO)])
    assert isinstance(none, NotFinite)
    (bounded,) = step_together(
        base, [(new_state(base.facts, lora), wild, replace(GRPO, mismatch="truncated"))]
    )
    assert isinstance(bounded, dict)
    assert "distrusted_tokens" not in bounded
