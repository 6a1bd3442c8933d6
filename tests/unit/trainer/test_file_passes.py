"""Passes of jobs on files: answers compared as TRL compares them, and passes that only measure."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord, trained_count
from mint_common.training import Passed
from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.batch import Row, build_kto_batch
from services.trainer.core.layer_rules import MAX_SHARED
from services.trainer.core.packing import behind_shared_beginning, pack_rows
from services.trainer.core.refusals import NotFinite
from services.trainer.core.wave_batch import WaveBatch
from tests.unit.trainer.managed import MANAGED

from .managed import masked
from .plain_peft import gradients_of, peft_twin, row_logprobs
from .test_lora import with_random_b

BETA = 0.5
MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


def work_of(algorithm: str, record: WaveRecord, *, backward: bool = True) -> WaveBatch:
    """Return the pass of a file's job; with a long row, so that no mismatched one is cut."""
    managed = MANAGED.named(algorithm)
    config = managed.training.config(BETA, "none")
    return managed.wave_batch(managed.build_batch(record), config, backward=backward, is_file=True)


def passed(base: ResidentBase, lora: LoraTensors, work: WaveBatch) -> Passed | NotFinite:
    (result,) = run_policy_passes(base, [PolicyPass(lora=lora, step=0, work=work)], max_tokens=48)
    return result


def file_record(make_record: MakeRecord, algorithm: str, *, seed: int = 0) -> WaveRecord:
    """Return a masked record; of KTO with a long row, so that no mismatched one is cut."""
    record = make_record(seed=seed, groups=5, samples=1 if algorithm == "sft" else 2)
    if algorithm != "kto":
        return masked(record)
    groups = [
        replace(group, samples=(group.samples[number % 2],)) for number, group in enumerate(record.groups)
    ]
    long = Sample(tokens=(5, 6, 7, 8, 9, 10), logprobs=(), reward=1.0, text="")
    return masked(replace(record, groups=(*groups, Group(prompt_tokens=tuple(range(9)), samples=(long,)))))


class Trl:
    """TRL 1.16's losses (``dpo_trainer.py``, ``kto_trainer.py``), as they are written there, in float64."""

    def __init__(self, model: PreTrainedModel, spec: LoraSpec, lora: LoraTensors) -> None:
        self.model = peft_twin(model, spec, lora).double()

    def logratio(self, prompt: tuple[int, ...], sample: Sample) -> Tensor:
        """Return the policy's minus the reference's log-probability of the tokens in the completion mask."""
        row = Row(prompt=prompt, tokens=sample.tokens, logprobs=(), advantage=0.0)
        ours = row_logprobs(self.model, row)
        with torch.no_grad(), self.model.disable_adapter():
            reference = row_logprobs(self.model, row)
        mask = [any(a <= n < b for a, b in sample.trained) for n in range(len(sample.tokens))]
        return ((ours - reference) * torch.tensor(mask)).sum(-1)

    def sft(self, record: WaveRecord) -> Tensor:
        """Return the mean of the negative log-probabilities over the labels that are not ignored."""
        terms = [
            row_logprobs(
                self.model, Row(prompt=g.prompt_tokens, tokens=s.tokens, logprobs=(), advantage=0.0)
            )[start:end]
            for g in record.groups
            for s in g.samples
            for start, end in s.trained
        ]
        return -torch.cat(terms).mean()

    def dpo(self, record: WaveRecord) -> Tensor:
        """Return the loss of ``loss_type="sigmoid"``."""
        scores = []
        for group in record.groups:
            rejected, chosen = sorted(group.samples, key=lambda sample: sample.reward)
            delta = self.logratio(group.prompt_tokens, chosen) - self.logratio(group.prompt_tokens, rejected)
            scores.append(delta)
        return -functional.logsigmoid(BETA * torch.stack(scores)).mean()

    def kto(self, record: WaveRecord) -> Tensor:
        """Return the loss of ``loss_type="kto"`` with both weights 1."""
        examples = [(group.prompt_tokens, group.samples[0]) for group in record.groups]
        completions = [sample for _, sample in examples]
        cycled = [completions[-1], *completions[:-1]]
        with torch.no_grad():
            kl_logratios = [self.logratio(prompt, s) for (prompt, _), s in zip(examples, cycled, strict=True)]
        kl = torch.stack(kl_logratios).mean().detach().clamp(min=0)
        losses = []
        for prompt, sample in examples:
            logratio = self.logratio(prompt, sample)
            margin = logratio - kl if sample.reward > 0 else kl - logratio
            losses.append(1 - torch.sigmoid(BETA * margin))
        return torch.stack(losses).nanmean()


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_are_trls(  # noqa: PLR0917  # parameters and fixtures
    algorithm: str,
    seed: int,
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    base, record = make_base(make_model()), file_record(make_record, algorithm, seed=seed)
    policy = with_random_b(new_lora(base.facts, lora))
    trl = Trl(make_model(), lora, policy)
    result = passed(base, policy, work_of(algorithm, record))
    assert isinstance(result, Passed)
    expected = getattr(trl, algorithm)(record)
    expected.backward()
    assert result.metrics["loss:mean"] == pytest.approx(float(expected.detach()), rel=1e-4)
    theirs = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in trl.model.named_parameters()
        if parameter.requires_grad
    }
    for name, gradient in gradients_of(policy):
        assert torch.allclose(gradient.double(), theirs[name], atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_a_pass_that_only_measures_tells_what_training_would_and_changes_nothing(
    algorithm: str, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base, record = make_base(make_model()), file_record(make_record, algorithm)
    policy = with_random_b(new_lora(base.facts, lora))
    before = policy.leaf.detach().clone()
    measured = passed(base, policy, work_of(algorithm, record, backward=False))
    assert policy.leaf.grad is None
    assert torch.equal(policy.leaf.detach(), before)
    trained = passed(base, policy, work_of(algorithm, record))
    assert isinstance(measured, Passed)
    assert isinstance(trained, Passed)
    names = {
        "loss": "loss",
        "mean_token_accuracy": "mean_token_accuracy",
        "preference_margin": "reward_margin",
        "preference_accuracy": "reward_accuracy",
    }
    assert measured.metrics == {
        f"valid_{told}:mean": trained.metrics[f"{name}:mean"]
        for name, told in names.items()
        if f"{name}:mean" in trained.metrics
    }
    assert len(measured.metrics) == {"sft": 2, "dpo": 4, "kto": 3}[algorithm]


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_token_accuracy_is_the_share_of_trained_tokens_that_the_model_would_say(
    algorithm: str, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    policy = with_random_b(new_lora(base.facts, lora))
    twin = peft_twin(make_model(), lora, policy)
    record = file_record(make_record, algorithm)
    hits: list[bool] = []
    groups = []
    for group in record.groups:
        samples = []
        for sample in group.samples:
            ids = torch.tensor([[*group.prompt_tokens, *sample.tokens]])
            likeliest = twin(input_ids=ids).logits[0].argmax(-1)[len(group.prompt_tokens) - 1 : -1].tolist()
            # Of all but the last group the first token is one that the model would say.
            is_said = group is not record.groups[-1]
            tokens = (likeliest[0], *sample.tokens[1:]) if is_said else sample.tokens
            ids[0, len(group.prompt_tokens)] = tokens[0]
            likeliest = twin(input_ids=ids).logits[0].argmax(-1)[len(group.prompt_tokens) - 1 : -1].tolist()
            if sample.reward > 0 or algorithm == "sft":
                hits += [
                    likeliest[n] == tokens[n] for start, end in sample.trained for n in range(start, end)
                ]
            samples.append(replace(sample, tokens=tokens))
        groups.append(replace(group, samples=tuple(samples)))
    result = passed(base, policy, work_of(algorithm, replace(record, groups=tuple(groups))))
    assert isinstance(result, Passed)
    assert any(hits)
    assert result.metrics["mean_token_accuracy:mean"] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_measuring_a_policy_that_is_not_finite_is_refused(
    algorithm: str, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    policy = with_random_b(new_lora(base.facts, lora))
    policy.leaf.detach()[::7] = math.nan
    result = passed(base, policy, work_of(algorithm, file_record(make_record, algorithm), backward=False))
    assert isinstance(result, NotFinite)


def answers(*rewards: float, tokens: int = 2) -> WaveRecord:
    """Return a record of answers to prompts of their own, of one token more each."""
    groups = [
        Group(
            prompt_tokens=tuple(range(number + 1)),
            samples=(Sample(tokens=(number,) * tokens, logprobs=(), reward=reward, text=""),),
        )
        for number, reward in enumerate(rewards)
    ]
    return WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=tuple(groups))


def test_an_answer_is_wanted_by_its_reward_and_mismatched_with_the_prompt_behind_it() -> None:
    batch = build_kto_batch(answers(1.0, 0.0, 1.0))
    assert [(row.advantage, row.pair) for row in batch.rows] == [(1.0, 0), (-1.0, 0), (1.0, 1)]
    assert [(row.prompt, row.tokens[0], row.advantage) for row in batch.mismatched] == [
        ((0, 1), 0, 0.0),
        ((0, 1, 2), 1, 0.0),
        ((0,), 2, 0.0),
    ]
    assert batch.total_tokens == 6


def test_a_mismatched_answer_ends_where_the_longest_row_does() -> None:
    record = answers(1.0, 1.0, 0.0, tokens=3)
    first, *others = record.groups
    sample = replace(first.samples[0], tokens=(9,) * 5, trained=((0, 1), (2, 3), (4, 5)))
    record = replace(record, groups=(replace(first, samples=(sample,)), *others))
    batch = build_kto_batch(record)
    assert max(row.length for row in batch.mismatched) <= max(row.length for row in batch.rows) == 5
    cut = batch.mismatched[0]
    assert (cut.prompt, cut.tokens, cut.trained) == ((0, 1), (9,) * 4, ((0, 1), (2, 3)))
    assert trained_count(cut.tokens, cut.trained) == 2


@pytest.mark.parametrize("rewards", [(1.0,), (0.0,), (1.0, 1.0, 1.0), (0.0, 0.0)])
def test_kto_learns_of_one_kind_and_of_a_single_answer(
    rewards: tuple[float, ...], make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    policy = new_lora(base.facts, lora)
    result = passed(base, policy, work_of("kto", answers(*rewards)))
    assert isinstance(result, Passed)
    assert result.metrics["loss:mean"] == pytest.approx(0.5)
    assert ("chosen_reward:mean" in result.metrics) is (rewards[0] > 0)
    assert "preference_margin:mean" not in result.metrics
    assert policy.leaf.grad is not None
    assert bool(policy.leaf.grad.any())


prompts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6)


@given(prompts, st.lists(st.integers(0, 3), max_size=8))
def test_rows_behind_a_shared_beginning_are_scored_at_the_same_tokens(
    endings: list[list[int]], beginning: list[int]
) -> None:
    rows = [
        Row(prompt=(*beginning, *ending), tokens=(7, 8, 9), logprobs=(), advantage=1.0, trained=((1, 3),))
        for ending in endings
    ]
    moved = behind_shared_beginning(rows)
    assert [(*row.prompt, *row.tokens) for row in moved] == [(*row.prompt, *row.tokens) for row in rows]
    assert [row.picked(row.tokens) for row in moved] == [row.picked(row.tokens) for row in rows]
    lengths = [sum(line.length for line in pack_rows(one, policy=0, max_length=64)) for one in (moved, rows)]
    assert lengths[0] <= lengths[1]
    if len(beginning) > 1 and len({row.prompt for row in rows}) == len(rows) > 1:
        assert lengths[0] < lengths[1]


def test_rows_that_share_little_stay_lines_of_their_own() -> None:
    """As where every sequence begins with one token: 15 of 336 tokens are saved, then 30 of 352."""
    for shared, is_moved in ((1, False), (2, True)):
        beginning = tuple(range(shared))
        rows = [
            Row(prompt=(*beginning, number + 9, *range(9)), tokens=(1,) * 11, logprobs=(), advantage=1.0)
            for number in range(16)
        ]
        assert (behind_shared_beginning(rows) != rows) is is_moved


def test_a_shared_beginning_changes_numbers_by_rounding_only(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: MakeRecord
) -> None:
    base = make_base(make_model())
    record = file_record(make_record, "kto")
    groups = [replace(g, prompt_tokens=(*range(20), *g.prompt_tokens)) for g in record.groups]
    found = []
    for longest in (0, MAX_SHARED):
        base.rules = replace(base.rules, max_shared=longest)
        policy = with_random_b(new_lora(base.facts, lora))
        result = passed(base, policy, work_of("kto", replace(record, groups=tuple(groups))))
        assert isinstance(result, Passed)
        found.append((result.metrics, policy.leaf.grad))
    (alone, alone_grad), (shared, shared_grad) = found
    assert shared == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert shared_grad is not None
    assert torch.allclose(shared_grad, alone_grad, atol=1e-5, rtol=1e-3)
