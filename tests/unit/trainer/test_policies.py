"""Residency: work is done in its order, failures are their policy's own, dropping loses nothing stored."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from mint_common.events import LoraSpec
from mint_common.training import Passed, Stepped
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.adapters.policies.resident_policies import ResidentPolicies, open_policies
from services.trainer.adapters.policies.tiers import ResidentPolicy
from services.trainer.adapters.states.training_state import new_state, write_state
from services.trainer.core.operations import NotResident
from services.trainer.core.policy_work import Copy, Distillation, StateExport
from services.trainer.core.refusals import CheckpointLost, NoGradient, NotFinite

from .conftest import facts_of, random_model
from .policy_waves import (
    LIMITS,
    TENANT,
    A,
    B,
    C,
    D,
    MakeRecord,
    begin_wave,
    state_of,
    step,
    wild,
)
from .test_distillation import make_distill


@pytest.fixture
async def policies(tiny_folder: Path) -> AsyncIterator[ResidentPolicies]:
    load = partial(load_base, tiny_folder)
    opened = open_policies(load, threads=1, limits=LIMITS, host_policies=1, max_tokens=2048)
    async with opened as policies:
        yield policies


async def test_a_repeated_wave_exports_the_same_bytes(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.admit(A, lora, data=None)
    await step(policies, make_record(seed=1))
    first = await state_of(policies)
    lost = await step(policies, make_record(seed=2))
    after = await state_of(policies)
    await policies.admit(A, lora, data=first)
    again = await step(policies, make_record(seed=2))
    assert again.export.adapter.files == lost.export.adapter.files
    assert await state_of(policies) == after


async def test_a_wave_of_skipped_groups_changes_nothing_and_exports_the_same_digest(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.admit(A, lora, data=None)
    first = await step(policies, make_record())
    before = await state_of(policies)
    skipped = await step(policies, make_record(seed=5, skipped=3))
    assert (skipped.taken, skipped.export.step) == (None, 1)
    assert skipped.export.adapter.files == first.export.adapter.files
    assert skipped.passed.metrics["skipped_groups:sum"] == 3
    assert skipped.passed.metrics["loss:mean"] == 0
    assert skipped.passed.metrics["ratio_max_error:max"] > 0
    assert skipped.passed.metrics["sampler_kl:mean"] > 0
    assert await state_of(policies) == before


async def test_a_refused_pass_takes_its_step_along_and_keeps_the_state(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.admit(A, lora, data=None)
    await step(policies, make_record())
    before = await state_of(policies)
    passed, taken, _ = await begin_wave(policies, wild(make_record()))
    assert isinstance(passed, NotFinite)
    assert isinstance(taken, NoGradient)
    assert await state_of(policies) == before


async def test_what_no_thread_takes_is_an_error_of_each_batch(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    for policy_id in (A, B):
        await policies.admit(policy_id, lora, data=None)
    policies._stepper.shutdown()
    for policy_id in (A, B):
        async with asyncio.timeout(30):
            refused = await begin_wave(policies, make_record(), policy_id=policy_id)
        assert isinstance(refused[0], RuntimeError)


async def test_the_least_recently_used_policies_leave_device_and_memory(
    policies: ResidentPolicies, lora: LoraSpec
) -> None:
    for policy_id in (A, B, C):
        await policies.admit(policy_id, lora, data=None)
        policies.release(policy_id)
    assert policies.tiers() == {A: "host", B: "device", C: "device"}
    await policies.admit(D, lora, data=None)
    assert policies.tiers() == {B: "host", C: "device", D: "device"}
    assert not policies.has(A)
    assert policies.swaps().count == 2


async def test_what_is_stored_nowhere_else_is_never_dropped(
    policies: ResidentPolicies, lora: LoraSpec
) -> None:
    for policy_id in (A, B, C, D):
        await policies.admit(policy_id, lora, data=None)
    assert policies.tiers() == {A: "host", B: "host", C: "device", D: "device"}


async def test_a_policy_from_the_host_goes_on_bitwise(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.admit(A, lora, data=None)
    first = await step(policies, make_record(seed=1))
    before = await state_of(policies)
    for policy_id in (B, C):
        await policies.admit(policy_id, lora, data=None)
    assert policies.tiers()[A] == "host"
    await step(policies, make_record(seed=2))
    second = await state_of(policies)
    assert policies.tiers()[A] == "device"
    assert policies.swaps().count == 3
    assert policies.swaps().bytes > 3 * len(first.export.adapter.files["adapter_model.safetensors"])
    await policies.admit(A, lora, data=before)
    await step(policies, make_record(seed=2))
    assert await state_of(policies) == second


async def test_policies_that_are_ready_at_once_share_a_pass_and_fail_alone(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    for policy_id in (A, B):
        await policies.admit(policy_id, lora, data=None)
    sound, bad = await asyncio.gather(
        begin_wave(policies, make_record(seed=1)),
        begin_wave(policies, wild(make_record(seed=2)), policy_id=B),
    )
    kinds = (Passed, Stepped, StateExport)
    assert all(isinstance(one, kind) for one, kind in zip(sound, kinds, strict=True))
    assert [type(one) for one in bad[:2]] == [NotFinite, NoGradient]
    assert policies.has(A)
    assert policies.has(B)


class FullBase(ResidentBase):
    """A base on a device whose memory is full when it is to compute."""

    def score(self, *_: object, **__: object) -> TokenScores:
        """Break, as torch does."""
        raise RuntimeError("out of memory")


async def test_a_distillation_that_breaks_the_machinery_takes_nobody_along_when_it_is_alone(
    lora: LoraSpec,
) -> None:
    model = random_model("llama")
    facts = facts_of(model)
    load = partial(FullBase, model, facts)
    async with open_policies(load, threads=1, limits=LIMITS, host_policies=1, max_tokens=64) as policies:
        for alone in (False, True):
            for policy_id in (A, B):
                await policies.admit(policy_id, lora, data=None)
            teacher = write_state(new_state(facts, lora))
            learning = Distillation(distill=make_distill(0), teacher=lora, data=teacher)
            breaking = policies.begin(B, TENANT, learning, alone=alone)
            copying = policies.begin(A, TENANT, Copy(with_gradient=False))
            broken, copied = await asyncio.gather(breaking, copying, return_exceptions=True)
            assert isinstance(broken, RuntimeError)
            assert isinstance(copied, bytes) is alone


async def test_what_is_dropped_while_it_is_at_work_is_not_continued_from(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.admit(A, lora, data=None)
    unwanted = asyncio.ensure_future(begin_wave(policies, make_record(seed=1)))
    while not policies._at_work:
        await asyncio.sleep(0)
    policies.forget(A)
    await unwanted
    assert not policies.has(A)
    with pytest.raises(NotResident):
        await policies.begin(A, TENANT, Copy(with_gradient=False))
    await policies.admit(A, lora, data=None)
    wanted = await step(policies, make_record(seed=1))
    assert wanted.taken is not None
    assert wanted.taken.step == 1


async def test_a_checkpoint_of_something_else_is_lost(policies: ResidentPolicies, lora: LoraSpec) -> None:
    with pytest.raises(CheckpointLost, match=A):
        await policies.admit(A, lora, data=b"garbage")
    assert not policies.has(A)


async def test_what_is_forgotten_while_others_make_room_is_not_given_back(
    policies: ResidentPolicies, lora: LoraSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted = (A, B)
    for policy_id in admitted:
        await policies.admit(policy_id, lora, data=None)
    swap_out = policies._swap_out

    async def forget_and_swap_out(residents: Sequence[ResidentPolicy]) -> None:
        if residents:
            policies.forget_all()  # as when a term ends
        await swap_out(residents)

    copies = [policies.begin(each, TENANT, Copy(with_gradient=False)) for each in admitted]
    copying = asyncio.gather(*copies)
    while not policies._at_work:
        await asyncio.sleep(0)
    for policy_id in (C, D):  # others are admitted meanwhile
        policies._tiers.put(policy_id, ResidentPolicy(new_state(policies.facts, lora)))
    monkeypatch.setattr(policies, "_swap_out", forget_and_swap_out)
    await copying
    assert not any(policies.has(policy_id) for policy_id in admitted)


async def test_policies_that_cannot_leave_the_device_stay_whole_and_hold_nobody_up(
    policies: ResidentPolicies,
    lora: LoraSpec,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_residents: Sequence[ResidentPolicy]) -> None:
        raise RuntimeError("out of memory")

    await policies.admit(A, lora, data=None)
    await step(policies, make_record(seed=1))
    before = await state_of(policies)
    with monkeypatch.context() as patch:
        patch.setattr(policies._tiers, "swap_out", break_down)
        for policy_id in (B, C):  # for the second there is no room
            await policies.admit(policy_id, lora, data=None)
            await step(policies, make_record(seed=1), policy_id=policy_id)
        assert policies.tiers() == dict.fromkeys((A, B, C), "device")
        assert "policy not moved off the device" in caplog.text
    await step(policies, make_record(seed=2), policy_id=C)
    assert policies.tiers() == {A: "host", B: "device", C: "device"}
    assert await state_of(policies) == before
