"""States that go on from an export's weights: its bits, and moments that begin as a new policy's do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from services.trainer.adapters.states.stored_states import _read, _write, graft_weights
from services.trainer.adapters.states.training_state import (
    TrainingState,
    new_state,
    park_state,
    read_state,
    resume_state,
    state_export,
    write_state,
)
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.core.operations import ExportLineage
from services.trainer.core.policy_work import StateExport
from services.trainer.core.wave_operations import adam_step

from .conftest import facts_of, random_model
from .test_lora import with_random_b

FIRST = ExportLineage(digest=None, parent=None)


@pytest.fixture
def facts(make_model: Callable[[], PreTrainedModel]) -> BaseFacts:
    return facts_of(make_model())


def exported(facts: BaseFacts, state: TrainingState) -> StateExport:
    return state_export(facts, PolicyId("policy_a"), park_state(state), FIRST)


def stepped(state: TrainingState, *, learning_rate: float = 1e-2) -> torch.Tensor:
    """Take a step on a fixed gradient; return the update, in learning rates."""
    before = state.lora.leaf.detach().clone()
    generator = torch.Generator().manual_seed(3)
    state.lora.leaf.grad = torch.randn(before.shape, generator=generator)
    take_steps([state], [adam_step(learning_rate=learning_rate, clip_norm=0.0)])
    return (before - state.lora.leaf.detach()) / learning_rate


def test_the_first_step_from_an_uploaded_revision_is_as_long_as_a_new_policy_s(
    facts: BaseFacts, lora: LoraSpec
) -> None:
    """It was 0.735 of it: step 1's moments, of zeros, were corrected as if they had a step behind them."""
    new, begun = new_state(facts, lora), new_state(facts, lora)
    with_random_b(begun.lora)
    weights = exported(facts, begun).adapter.files[WEIGHTS_FILE]
    grafted = read_state(facts, lora, graft_weights(facts, lora, write_state(new), weights))
    assert (grafted.step, grafted.moments) == (1, {})
    for _ in range(3):
        # In between it is parked, and stored.
        grafted = resume_state(park_state(read_state(facts, lora, write_state(grafted))))
        assert torch.allclose(stepped(grafted), stepped(new), atol=1e-3)
    assert (grafted.step, new.step) == (4, 3)


def test_a_policy_that_was_stepped_keeps_its_moments(facts: BaseFacts, lora: LoraSpec) -> None:
    state = new_state(facts, lora)
    stepped(state)
    weights = exported(facts, state).adapter.files[WEIGHTS_FILE]
    stepped(state)
    again = read_state(facts, lora, graft_weights(facts, lora, write_state(state), weights))
    assert (again.step, again.moment_steps) == (2, 2)
    for name, moment in state.moments.items():
        assert torch.equal(again.moments[name], moment)


def test_moments_that_are_reset_leave_a_first_step_as_a_new_policy_s(
    facts: BaseFacts, lora: LoraSpec
) -> None:
    new, state = new_state(facts, lora), new_state(facts, lora)
    with_random_b(state.lora)
    stepped(state)
    weights = exported(facts, state).adapter.files[WEIGHTS_FILE]
    data = graft_weights(facts, lora, write_state(state), weights, resets_moments=True)
    reset = read_state(facts, lora, data)
    assert (reset.step, reset.moment_steps, reset.moments) == (1, 0, {})
    assert torch.equal(reset.lora.leaf, state.lora.leaf)
    assert torch.allclose(stepped(reset), stepped(new), atol=1e-3)


def test_a_state_of_before_is_read_with_as_many_steps_of_its_moments(
    facts: BaseFacts, lora: LoraSpec
) -> None:
    state = new_state(facts, lora)
    stepped(state)
    assert b"moment_steps" not in write_state(state)
    assert read_state(facts, lora, write_state(state)).moment_steps == 1


@given(alpha=st.floats(0.1, 64.0), rank=st.sampled_from([1, 3, 5, 7, 16]), seed=st.integers(0, 1000))
def test_a_loaded_revision_that_is_not_trained_exports_its_own_digest(
    alpha: float, rank: int, seed: int
) -> None:
    facts = facts_of(random_model("llama"))
    lora = LoraSpec(rank=rank, alpha=alpha, targets=("q_proj",), seed=seed)
    state = new_state(facts, lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        state.lora.leaf.copy_(torch.randn(state.lora.leaf.shape, generator=generator))
    first = exported(facts, state)
    data = graft_weights(facts, lora, write_state(state), first.adapter.files[WEIGHTS_FILE])
    assert exported(facts, read_state(facts, lora, data)).adapter.digest == first.adapter.digest


def test_ranks_that_an_upload_lacks_begin_as_in_a_new_policy(facts: BaseFacts, lora: LoraSpec) -> None:
    new, given = new_state(facts, lora), new_state(facts, lora)
    with_random_b(given.lora)
    for part, view in zip(
        given.lora.layout.parts, given.lora.layout.cut(given.lora.leaf.detach()), strict=True
    ):
        if part.half == "A":
            view[..., 1:, :] = 0.0
        else:
            view[..., :, 1:] = 0.0
    weights = exported(facts, given).adapter.files[WEIGHTS_FILE]
    grafted = read_state(facts, lora, graft_weights(facts, lora, write_state(new), weights))
    cut = [state.lora.layout.cut(state.lora.leaf.detach()) for state in (given, new, grafted)]
    for part, had, began, found in zip(given.lora.layout.parts, *cut, strict=True):
        if part.half == "A":
            assert torch.equal(found[..., :1, :], had[..., :1, :])
            assert torch.equal(found[..., 1:, :], began[..., 1:, :])
            assert began[..., 1:, :].any()
        else:
            torch.testing.assert_close(found, had)


def test_a_mixture_of_a_lower_rank_and_a_whole_adapter_is_their_sum(facts: BaseFacts, lora: LoraSpec) -> None:
    """The rank that one lacks is the other's alone; a rank that both lack begins as in a new policy."""
    whole, lower = new_state(facts, replace(lora, seed=7)), new_state(facts, replace(lora, seed=8))
    with torch.no_grad():
        for state, used in ((whole, lora.rank - 1), (lower, lora.rank - 2)):
            with_random_b(state.lora)
            for part, view in zip(
                state.lora.layout.parts, state.lora.layout.cut(state.lora.leaf), strict=True
            ):
                view.narrow(-2 if part.half == "A" else -1, used, lora.rank - used).zero_()
    leaves = [
        _read(facts, lora, "sampler", exported(facts, state).adapter.files[WEIGHTS_FILE])
        for state in (whole, lower)
    ]
    assert all(
        torch.allclose(leaf.float(), s.lora.leaf) for leaf, s in zip(leaves, (whole, lower), strict=True)
    )
    mixed = read_state(facts, lora, _write(facts, lora, 0.25 * leaves[0] + 0.75 * leaves[1])).lora
    fresh = new_state(facts, lora).lora
    summed = 0.25 * whole.lora.leaf + 0.75 * lower.lora.leaf
    last = lora.rank - 1
    for part, view, own, both in zip(
        mixed.layout.parts,
        *(mixed.layout.cut(leaf.detach()) for leaf in (mixed.leaf, fresh.leaf, summed)),
        strict=True,
    ):
        axis = -2 if part.half == "A" else -1
        assert torch.allclose(view.narrow(axis, 0, last), both.narrow(axis, 0, last))
        rest = view.narrow(axis, last, 1)
        assert torch.equal(rest, own.narrow(axis, last, 1)) if part.half == "A" else not rest.any()
