"""A policy whose numbers overflow has an error of its own; its neighbours have the bits they always have."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from mint_common.training import Passed
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.policy_passes import run_policy_passes
from services.trainer.core.batch import Batch
from services.trainer.core.refusals import NotFinite
from tests.unit.trainer.managed import MANAGED

from .families import FAMILIES, describe_family, everything, make_family
from .managed import StepSettings, Work, step_policies
from .test_families import batch_of, rows_of
from .test_lora import with_random_b
from .test_passes import make_pass, work_of

ROUTED = {name for name, config in FAMILIES.items() if "num_experts_per_tok" in config}
POISONS = {"huge weights": 1e25, "huge steps": 1e38}
SETTINGS = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.1, clip_norm=1.0)
MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


def trained(base: ResidentBase, spec: LoraSpec, *, poison: str | None = None) -> TrainingState:
    """Return a policy that is no longer its base; its weights are finite, whatever is wrong with them."""
    state = new_state(base.facts, spec)
    with_random_b(state.lora)
    if poison == "huge weights":
        state.lora.leaf.detach().mul_(POISONS[poison])
    return state


def two_steps(
    base: ResidentBase,
    specs: Sequence[LoraSpec],
    batches: Sequence[Batch],
    settings: StepSettings,
    *,
    poison: str | None,
) -> tuple[list[TrainingState], list[dict[str, float] | NotFinite]]:
    """Step three policies together, twice; the one in the middle is the poisoned one."""
    states = [
        trained(base, spec, poison=poison if number == 1 else None) for number, spec in enumerate(specs)
    ]
    how = [settings] * 3
    if poison == "huge steps":
        how[1] = replace(settings, learning_rate=POISONS[poison])
    results: list[dict[str, float] | NotFinite] = []
    for _ in range(2):
        works = [
            Work(state=state, batch=batch, settings=one)
            for state, batch, one in zip(states, batches, how, strict=True)
        ]
        results += step_policies(base, works, max_tokens=64)
    return states, results


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    ("algorithm", "samples"),
    [("grpo", (4, 4, 4)), ("grpo", (2, 5, 3)), ("sft", (2, 5, 3)), ("dpo", (4, 4, 4))],
)
def test_steps_beside_a_policy_that_overflows_have_the_same_bits(  # noqa: PLR0917  # parameters, fixtures
    algorithm: str,
    poison: str,
    samples: tuple[int, ...],
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: MakeRecord,
) -> None:
    base = make_base(make_model())
    specs = [lora, replace(lora, seed=1), replace(lora, seed=2)]
    settings = replace(SETTINGS, algorithm=algorithm)
    batches = [
        MANAGED.named(algorithm).build_batch(make_record(seed=number, samples=count))
        for number, count in enumerate(samples)
    ]
    expected_states, expected = two_steps(base, specs, batches, settings, poison=None)
    states, found = two_steps(base, specs, batches, settings, poison=poison)
    assert isinstance(found[4], NotFinite)
    for number in (0, 2):
        assert isinstance(expected[number], dict)
        assert (found[number], found[number + 3]) == (expected[number], expected[number + 3])
        assert torch.equal(states[number].lora.leaf, expected_states[number].lora.leaf)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_have_steps_over_every_family(family: str, tmp_path: Path) -> None:
    base = ResidentBase(make_family(family), describe_family(family, tmp_path))
    specs = [everything(base.facts, seed=seed) for seed in range(3)]
    batches = [batch_of(rows_of(number)) for number in range(3)]
    settings = replace(SETTINGS, algorithm="sft")
    expected_states, expected = two_steps(base, specs, batches, settings, poison=None)
    states, found = two_steps(base, specs, batches, settings, poison="huge weights")
    assert isinstance(found[4], NotFinite)
    for number in (0, 2):
        one, other = found[number + 3], expected[number + 3]
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        # Which experts a neighbour's tokens go to decides how many rows a product has, and so its rounding.
        assert one == pytest.approx(other, rel=1e-4 if family in ROUTED else 0)
        distance = (states[number].lora.leaf - expected_states[number].lora.leaf).detach().abs().max()
        assert float(distance) <= (1e-3 if family in ROUTED else 0)


@pytest.mark.parametrize("loss", ["cross_entropy", "importance_sampling", "gspo"])
def test_passes_beside_a_policy_that_overflows_have_the_same_bits(
    loss: str, make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    base = make_base(make_model())

    def run(poison: str | None) -> tuple[list[torch.Tensor | None], list[Passed | NotFinite]]:
        states = [
            trained(base, replace(lora, seed=number), poison=poison if number == 1 else None)
            for number in range(3)
        ]
        works = [work_of(state, make_pass(number, loss)) for number, state in enumerate(states)]
        works.append(work_of(states[2], make_pass(9, loss, backward=False)))
        results = run_policy_passes(base, works, max_tokens=64)
        return [state.lora.leaf.grad for state in states], results

    expected_gradients, expected = run(None)
    gradients, found = run("huge weights")
    assert isinstance(found[1], NotFinite)
    assert gradients[1] is None
    for number in (0, 2, 3):
        assert isinstance(found[number], Passed)
        assert found[number] == expected[number]
    for number in (0, 2):
        own, other = gradients[number], expected_gradients[number]
        assert own is not None
        assert other is not None
        assert torch.equal(own, other)
