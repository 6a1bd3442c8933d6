"""Distillation: the reverse KL against naive arithmetic, and its gradients against peft's two models."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from mint_common.training import CheckpointRef, Distill, Distilled, Lesson
from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.policies.tasks import PolicyTask
from services.trainer.adapters.training.distillation import distillation_runs
from services.trainer.adapters.training.runs import complete
from services.trainer.core.losses.reverse_kl import reverse_kl
from services.trainer.core.policy_work import Distillation
from services.trainer.core.refusals import NotFinite

from .plain_peft import gradients_of, peft_twin
from .test_lora import with_random_b
from .test_passes import floats, ints

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
TEACHER = LoraSpec(rank=3, alpha=6.0, targets=("q_proj", "up_proj"), seed=1)
VOCABULARY = 40
logits = st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4)


def softmax(row: Sequence[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in row]
    return [weight / math.fsum(weights) for weight in weights]


@settings(deadline=None)
@given(st.lists(st.tuples(logits, logits), min_size=1, max_size=4), st.sampled_from([0.5, 1.0, 3.0]))
def test_reverse_kl_is_the_sum_over_the_vocabulary(
    rows: list[tuple[list[float], list[float]]], temperature: float
) -> None:
    student, teacher = (torch.tensor(side) for side in zip(*rows, strict=True))
    found = reverse_kl(student, teacher, temperature)
    for value, (own, others) in zip(found.tolist(), rows, strict=True):
        p, q = softmax(own, temperature), softmax(others, temperature)
        expected = math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        assert value == pytest.approx(expected, abs=2e-5, rel=1e-4)


def make_distill(seed: int, *, count: int = 3, temperature: float = 1.0) -> Distill:
    rng = np.random.default_rng(seed)

    def lesson() -> Lesson:
        prompts = [rng.integers(0, VOCABULARY, rng.integers(1, 7)).astype("<i4").tobytes() for _ in range(2)]
        length = int(rng.integers(1, 6))
        targets, weights = rng.integers(0, VOCABULARY, length), rng.uniform(0, 2, length)
        return Lesson(*prompts, ints(targets), floats(weights))

    teacher = CheckpointRef(PolicyId("policy_t"), "training", "one")
    return Distill(data=tuple(lesson() for _ in range(count)), teacher=teacher, temperature=temperature)


def rows_of(twin: torch.nn.Module, prompt: bytes, lesson: Lesson) -> torch.Tensor:
    targets = np.frombuffer(lesson.target_tokens.data, "<i8")
    ids = np.concatenate([np.frombuffer(prompt, "<i4").astype("i8"), targets])
    return twin(input_ids=torch.from_numpy(ids)[None]).logits[0, -len(targets) - 1 : -1]


def naive_loss(student: torch.nn.Module, teacher: torch.nn.Module, work: Distill) -> list[torch.Tensor]:
    found = []
    for lesson in work.data:
        with torch.no_grad():
            q = torch.softmax(rows_of(teacher, lesson.teacher_tokens, lesson) / work.temperature, -1)
        p = torch.softmax(rows_of(student, lesson.student_tokens, lesson) / work.temperature, -1)
        weights = torch.from_numpy(np.frombuffer(lesson.weights.data, "<f4").copy())
        found.append(((p * (p.log() - q.log())).sum(-1) * weights).sum())
    return found


def both(base: ResidentBase, lora: LoraSpec) -> tuple[LoraTensors, LoraTensors]:
    return with_random_b(new_lora(base.facts, lora)), with_random_b(new_lora(base.facts, TEACHER))


@pytest.mark.parametrize(("temperature", "max_tokens"), [(1.0, 1000), (2.0, 9)])
def test_losses_and_gradients_are_those_of_two_plain_models(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, temperature: float, max_tokens: int
) -> None:
    base = make_base(make_model())
    student, teacher = both(base, lora)
    work = make_distill(4, temperature=temperature)
    twin = peft_twin(make_model(), lora, student)
    expected = naive_loss(twin, peft_twin(make_model(), TEACHER, teacher), work)
    sum(expected[1:], start=expected[0]).backward()
    for times in (1, 2):  # gradients add up
        found = complete(distillation_runs(base, student, teacher, work, step=3, max_tokens=max_tokens))
        assert isinstance(found, Distilled)
        assert found.losses == pytest.approx([float(loss.detach()) for loss in expected], abs=1e-5)
        theirs = {name: parameter.grad for name, parameter in twin.named_parameters()}
        for name, gradient in gradients_of(student):
            expected_grad = times * theirs[name.replace(".weight", ".default.weight")]
            torch.testing.assert_close(gradient, expected_grad, atol=2e-5, rtol=1e-4)
    assert teacher.leaf.grad is None
    counted = found.metrics["num_tokens:sum"]
    assert found.metrics["reverse_kl:mean"] == pytest.approx(sum(found.losses) / counted)


@pytest.mark.parametrize("logits_targets", [4, 12, 400])
def test_the_scheduler_counts_what_the_parts_of_lessons_read(
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    monkeypatch: pytest.MonkeyPatch,
    logits_targets: int,
) -> None:
    """A lesson of many parts read up to 20 times what it was counted as."""
    monkeypatch.setattr(ResidentBase, "logits_targets", logits_targets)
    base, work = make_base(make_model()), make_distill(0)
    student, teacher = new_lora(base.facts, lora), new_lora(base.facts, TEACHER)
    runs = distillation_runs(base, student, teacher, work, step=0, max_tokens=16)
    asked = Distillation(distill=work, teacher=TEACHER, data=b"")
    task = PolicyTask(policy_id=PolicyId("policy_a"), work=asked, done=Future())  # type: ignore[arg-type]  # nobody waits
    assert task.tokens(base) == sum(runs)


def test_a_policy_is_at_no_distance_from_itself(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    student, _ = both(base, lora)
    work = make_distill(5)
    same = Distill(
        data=tuple(
            Lesson(one.student_tokens, one.student_tokens, one.target_tokens, one.weights)
            for one in work.data
        ),
        teacher=work.teacher,
        temperature=1.0,
    )
    found = complete(distillation_runs(base, student, student, same, step=0, max_tokens=100))
    assert isinstance(found, Distilled)
    assert max(map(abs, found.losses)) < 1e-5
    assert float(student.leaf.grad.abs().max()) < 1e-5


def test_what_is_not_finite_adds_nothing(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    base = make_base(make_model())
    student, teacher = both(base, lora)
    complete(distillation_runs(base, student, teacher, make_distill(6), step=0, max_tokens=100))
    before = student.leaf.grad.clone()
    teacher.leaf.detach().fill_(math.inf)
    refused = complete(distillation_runs(base, student, teacher, make_distill(7), step=2, max_tokens=100))
    assert isinstance(refused, NotFinite)
    assert torch.equal(student.leaf.grad, before)
