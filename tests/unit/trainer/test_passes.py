"""Passes and steps that clients ask for: equal to peft and to torch, alone or together, and failing alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.training import Array, Datum, LossName, Pass, Passed, Step
from services.trainer.adapters.lora.tensors import new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.adapters.states.training_state import TrainingState, new_state, write_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.refusals import NotFinite

from .full_memory import TOO_LONG_BACKWARD, fill_memory
from .plain_peft import gradients_of, peft_twin
from .test_lora import with_random_b

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
ADAM = Step(learning_rate=1e-2, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1, clip_norm=0.05)
LOSSES: dict[LossName, dict[str, float]] = {
    "cross_entropy": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_high_threshold": 1.5},
    "dro": {"beta": 0.3},
    "gspo": {"clip_low_threshold": 0.99},
}
VOCABULARY = 40


def floats(values: np.ndarray) -> Array:
    return Array(dtype="float32", shape=values.shape, data=values.astype("<f4").tobytes())


def ints(values: np.ndarray) -> Array:
    return Array(dtype="int64", shape=values.shape, data=values.astype("<i8").tobytes())


def make_datum(rng: np.random.Generator, loss: LossName, *, length: int = 0, targets: int = 0) -> Datum:
    length = length or int(rng.integers(2, 9))
    shape = (length, targets) if targets else (length,)
    inputs = {"target_tokens": ints(rng.integers(0, VOCABULARY, shape))}
    if loss == "cross_entropy":
        inputs["weights"] = floats(rng.uniform(0, 2, shape))
    else:
        inputs["logprobs"] = floats(rng.uniform(-5, -2, shape))
        inputs["advantages"] = floats(rng.uniform(-1, 1, shape))
    if loss == "gspo":
        inputs["sequence_ratio_mask"] = floats((np.arange(length) > 0).astype("f4"))
    return Datum(tokens=rng.integers(0, VOCABULARY, length).astype("<i4").tobytes(), inputs=inputs)


def make_pass(seed: int, loss: LossName = "cross_entropy", *, backward: bool = True, count: int = 3) -> Pass:
    rng = np.random.default_rng(seed)
    data = tuple(make_datum(rng, loss) for _ in range(count))
    return Pass(data=data, loss=loss, config=LOSSES[loss], backward=backward)


def work_of(state: TrainingState, work: Pass) -> PolicyPass:
    return PolicyPass(lora=state.lora, step=state.step, work=work)


def values(array: Array) -> torch.Tensor:
    kind = "<f4" if array.dtype == "float32" else "<i8"
    return torch.from_numpy(np.frombuffer(array.data, kind).reshape(array.shape).copy())


def naive_loss(work: Pass, logprobs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum the formulas of the Tinker API's table, datum by datum."""
    low = work.config.get("clip_low_threshold", 0.8)
    high = work.config.get("clip_high_threshold", 1.2)
    total = torch.zeros(())
    for datum, lp in zip(work.data, logprobs, strict=True):
        inputs = {name: values(array) for name, array in datum.inputs.items()}
        if work.loss == "cross_entropy":
            total = total - (lp * inputs["weights"]).sum()
            continue
        old, advantage = inputs["logprobs"], inputs["advantages"]
        ratio = torch.exp(lp - old)
        if work.loss == "gspo":
            mask = inputs["sequence_ratio_mask"] > 0
            ratio = torch.exp((lp.detach() - old)[mask].mean() + lp - lp.detach())
        if work.loss == "importance_sampling":
            total = total - (ratio * advantage).sum()
        elif work.loss == "cispo":
            total = total - (ratio.clamp(low, high).detach() * lp * advantage).sum()
        elif work.loss == "dro":
            total = total - (lp * advantage - 0.5 * work.config["beta"] * (lp - old) ** 2).sum()
        else:
            total = total - torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage).sum()
    return total


def plain_logprobs(twin: torch.nn.Module, datum: Datum) -> torch.Tensor:
    ids = torch.from_numpy(np.frombuffer(datum.tokens, "<i4").astype("i8"))
    logprobs = torch.log_softmax(twin(input_ids=ids[None]).logits[0], -1)
    targets = values(datum.inputs["target_tokens"])
    return logprobs.gather(-1, targets.reshape(len(ids), -1)).reshape(targets.shape)


def assert_like_peft(
    model: PreTrainedModel,
    spec: LoraSpec,
    state: TrainingState,
    works: Sequence[Pass],
    results: Sequence[object],
) -> None:
    """Compare results, and the sum of the gradients, with peft's."""
    twin = peft_twin(model, spec, state.lora)
    for work, result in zip(works, results, strict=True):
        assert isinstance(result, Passed)
        logprobs = [plain_logprobs(twin, datum) for datum in work.data]
        for found, expected in zip(result.logprobs, logprobs, strict=True):
            assert torch.allclose(values(found), expected.detach(), atol=1e-5, rtol=0)
        loss = naive_loss(work, logprobs)
        assert result.metrics["loss:sum"] == pytest.approx(float(loss.detach()), abs=1e-3, rel=1e-5)
        if work.backward:
            loss.backward()
    expected_grads = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in twin.named_parameters()
        if parameter.requires_grad
    }
    for name, gradient in gradients_of(state.lora):
        expected = expected_grads[name]
        zeros = torch.zeros_like(gradient)
        assert torch.allclose(gradient, zeros if expected is None else expected, atol=2e-5, rtol=1e-5), name


def trained_state(base: ResidentBase, spec: LoraSpec) -> TrainingState:
    state = new_state(base.facts, spec)
    with_random_b(state.lora)
    return state


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_equals_peft(
    loss: LossName, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    state = trained_state(base, lora)
    works = [make_pass(1, loss), make_pass(2, loss, backward=False), make_pass(3, loss)]
    results = run_policy_passes(base, [work_of(state, work) for work in works], max_tokens=32)
    assert_like_peft(make_model(), lora, state, works, results)


def test_policies_together_equal_separate_peft_runs(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    specs = [
        lora,
        replace(lora, rank=2, seed=1),
        replace(lora, rank=3, alpha=5.0, targets=("o_proj", "up_proj")),
    ]
    states = [trained_state(base, spec) for spec in specs]
    works = [[make_pass(seed, loss) for loss in ("cross_entropy", "ppo")] for seed in range(3)]
    flat = [work_of(state, one) for state, own in zip(states, works, strict=True) for one in own]
    results = run_policy_passes(base, flat, max_tokens=64)
    for number, (spec, state, own) in enumerate(zip(specs, states, works, strict=True)):
        assert_like_peft(make_model(), spec, state, own, results[2 * number : 2 * number + 2])


def test_several_targets_of_a_position(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    """Distillation: two-dimensional targets, of differing widths, beside ordinary ones."""
    base = make_base(make_model())
    state = trained_state(base, lora)
    rng = np.random.default_rng(0)
    data = tuple(make_datum(rng, "cross_entropy", targets=targets) for targets in (3, 0, 1, 5))
    work = Pass(data=data, loss="cross_entropy", config={}, backward=True)
    results = run_policy_passes(base, [work_of(state, work)], max_tokens=16)
    assert_like_peft(make_model(), lora, state, [work], results)


def test_bounds_of_each_token_override_the_config(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    one, other = trained_state(base, lora), trained_state(base, lora)
    work = make_pass(4, "ppo")
    bounds = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}
    data = tuple(
        Datum(
            tokens=datum.tokens,
            inputs={
                **datum.inputs,
                **{
                    name: floats(np.full(datum.inputs["target_tokens"].shape, bound))
                    for name, bound in bounds.items()
                },
            },
        )
        for datum in work.data
    )
    each = Pass(data=data, loss="ppo", config={}, backward=True)
    run_policy_passes(base, [work_of(one, work)], max_tokens=64)
    run_policy_passes(base, [work_of(other, each)], max_tokens=64)
    assert one.lora.leaf.grad is not None
    assert torch.equal(one.lora.leaf.grad, other.lora.leaf.grad)


def test_weights_default_to_one(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    base = make_base(make_model())
    state = trained_state(base, lora)
    (datum, *_) = make_pass(1).data
    bare = Datum(tokens=datum.tokens, inputs={"target_tokens": datum.inputs["target_tokens"]})
    work = Pass(data=(bare,), loss="cross_entropy", config={}, backward=False)
    (passed,) = run_policy_passes(base, [work_of(state, work)], max_tokens=64)
    assert isinstance(passed, Passed)
    assert passed.metrics["loss:sum"] == pytest.approx(-float(values(passed.logprobs[0]).sum()), rel=1e-5)


def test_gradients_add_up_and_forward_leaves_them(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    state = trained_state(base, lora)
    gradients = []
    for seed in (1, 2):
        run_policy_passes(base, [work_of(state, make_pass(seed))], max_tokens=64)
        assert state.lora.leaf.grad is not None
        gradients.append(state.lora.leaf.grad.clone())
        state.lora.leaf.grad = None
    run_policy_passes(base, [work_of(state, make_pass(1))], max_tokens=64)
    run_policy_passes(base, [work_of(state, make_pass(3, backward=False))], max_tokens=64)
    run_policy_passes(base, [work_of(state, make_pass(2))], max_tokens=64)
    assert torch.equal(state.lora.leaf.grad, gradients[0] + gradients[1])


def spoilt(work: Pass) -> Pass:
    """Return a pass whose loss overflows: nothing that a check could see."""
    data = tuple(
        Datum(
            tokens=datum.tokens,
            inputs={**datum.inputs, "logprobs": floats(np.full(datum.inputs["logprobs"].shape, -1e4))},
        )
        for datum in work.data
    )
    return Pass(data=data, loss=work.loss, config=work.config, backward=work.backward)


def test_a_pass_that_is_not_finite_fails_alone(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    states = [trained_state(base, lora), trained_state(base, replace(lora, seed=5))]
    calm = [trained_state(base, lora), trained_state(base, replace(lora, seed=5))]
    sound = [make_pass(1, "importance_sampling"), make_pass(2, "importance_sampling")]
    bad = spoilt(make_pass(3, "importance_sampling"))
    works = [work_of(states[0], sound[0]), work_of(states[0], bad), work_of(states[1], sound[1])]
    results = run_policy_passes(base, works, max_tokens=64)
    assert isinstance(results[1], NotFinite)
    for state, alone, work, result in zip(states, calm, sound, (results[0], results[2]), strict=True):
        (expected,) = run_policy_passes(base, [work_of(alone, work)], max_tokens=64)
        assert isinstance(result, Passed)
        assert isinstance(expected, Passed)
        assert result.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-4)
        assert state.lora.leaf.grad is not None
        assert alone.lora.leaf.grad is not None
        assert torch.allclose(state.lora.leaf.grad, alone.lora.leaf.grad, atol=1e-6)


def test_a_step_is_adamw_on_the_clipped_gradient(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    state = trained_state(base, lora)
    weight = state.lora.leaf.detach().clone().double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for number in (1, 2, 3):
        run_policy_passes(base, [work_of(state, make_pass(number))], max_tokens=64)
        assert state.lora.leaf.grad is not None
        gradient = state.lora.leaf.grad.double()
        norm = float(gradient.norm())
        gradient *= min(1.0, ADAM.clip_norm / norm)
        first = ADAM.beta1 * first + (1 - ADAM.beta1) * gradient
        second = ADAM.beta2 * second + (1 - ADAM.beta2) * gradient**2
        weight *= 1 - ADAM.learning_rate * ADAM.weight_decay
        corrected = (second / (1 - ADAM.beta2**number)).sqrt() + ADAM.eps
        weight -= ADAM.learning_rate * (first / (1 - ADAM.beta1**number)) / corrected
        (taken,) = take_steps([state], [ADAM])
        assert not isinstance(taken, NotFinite)
        assert taken.step == number
        assert taken.metrics["grad_norm:mean"] == pytest.approx(norm, rel=1e-5)
        assert torch.allclose(state.lora.leaf.detach().double(), weight, atol=1e-5, rtol=0)
    assert state.lora.leaf.grad is None


def test_a_step_on_an_infinite_gradient_changes_nothing_but_the_gradient(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    state = trained_state(make_base(make_model()), lora)
    before = write_state(state)
    state.lora.leaf.grad = torch.full_like(state.lora.leaf, math.inf)
    assert isinstance(take_steps([state], [ADAM])[0], NotFinite)
    assert state.lora.leaf.grad is None
    assert write_state(state) == before


def test_training_one_policy_leaves_another_s_bytes_alone(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    still, moving = trained_state(base, lora), trained_state(base, replace(lora, seed=9))
    run_policy_passes(base, [work_of(still, make_pass(0))], max_tokens=64)
    take_steps([still], [ADAM])
    run_policy_passes(base, [work_of(still, make_pass(1))], max_tokens=64)
    before = write_state(still)
    assert still.lora.leaf.grad is not None
    gradient = still.lora.leaf.grad.clone()
    for number in range(100):
        forward = make_pass(number + 1000, backward=False, count=1)
        run_policy_passes(
            base, [work_of(moving, make_pass(number, count=2)), work_of(still, forward)], max_tokens=64
        )
        take_steps([moving], [ADAM])
    assert write_state(still) == before
    assert torch.equal(still.lora.leaf.grad, gradient)


def test_computed_alone_a_pass_gives_the_same_bits_again(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    one, other = new_lora(base.facts, lora), new_lora(base.facts, lora)
    works = [PolicyPass(lora=tensors, step=0, work=make_pass(7)) for tensors in (one, other)]
    results = [run_policy_passes(base, [work], max_tokens=16) for work in works]
    assert results[0] == results[1]
    assert one.leaf.grad is not None
    assert other.leaf.grad is not None
    assert torch.equal(one.leaf.grad, other.leaf.grad)


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_a_micro_batch_that_does_not_fit_is_halved_and_comes_to_the_same(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, fails_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    base = make_base(model)
    states = [trained_state(base, lora) for _ in range(2)]
    works = [make_pass(seed, "ppo", count=5) for seed in range(2)]
    score, scored_lines = base.score, []

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def scored(lines: Sequence[Any], *more: Any) -> TokenScores:
        found = score(lines, *more)
        scored_lines.append(len(lines))
        if len(lines) > 3:
            full() if fails_in == "forward" else found.logprobs_T.register_hook(full)
        return found

    monkeypatch.setattr(base, "score", scored)
    given = [work_of(state, work) for state, work in zip(states, works, strict=True)]
    for state, work, result in zip(
        states, works, run_policy_passes(base, given, max_tokens=4096), strict=True
    ):
        monkeypatch.setattr(base, "score", score)
        assert_like_peft(make_model(), lora, state, [work], [result])
    assert max(scored_lines) > 3
    assert scored_lines[-1] <= 3


def test_a_single_line_that_does_not_fit_is_an_error(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())
    fill_memory(base)
    state, rng = trained_state(base, lora), np.random.default_rng(0)
    data = tuple(make_datum(rng, "ppo", length=length) for length in (5, TOO_LONG_BACKWARD, 7))
    work = Pass(data=data, loss="ppo", config=LOSSES["ppo"], backward=True)
    with pytest.raises(torch.OutOfMemoryError):
        run_policy_passes(base, [work_of(state, work)], max_tokens=4096)
