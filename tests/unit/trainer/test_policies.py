"""Residency: work is done in its order, failures are their policy's own, dropping loses nothing stored."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from msgspec import structs

from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId
from mint_common.records import WaveRecord
from mint_common.training import Datum, Passed, Stepped
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.adapters.policies.resident_policies import ResidentPolicies, open_policies
from services.trainer.adapters.policies.tiers import ResidentPolicy
from services.trainer.adapters.states.training_state import new_state, write_state
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.operations import ExportLineage, NotResident
from services.trainer.core.refusals import CheckpointLost, NoGradient, NotFinite
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.core.wave_operations import adam_step
from services.trainer.ports.policies import Copy, Distillation, ExportWeights, StateExport, TakeStep

from .conftest import facts_of, random_model
from .managed import StepSettings, wave_batch
from .test_distillation import make_distill
from .test_file_passes import file_record, work_of
from .test_passes import floats, make_pass

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
ADAM = adam_step(learning_rate=2e-3, clip_norm=1.0)
A, B, C, D = (PolicyId(f"policy_{letter}") for letter in "abcd")
TENANT = TenantId("t")
LIMITS = SchedulerLimits(max_tokens=4096, max_policies=2, device_policies=2)
FIRST = ExportLineage(digest=None, parent=None)
MakeRecord = Callable[..., WaveRecord]


@pytest.fixture
async def policies(tiny_folder: Path) -> AsyncIterator[ResidentPolicies]:
    load = partial(load_base, tiny_folder)
    opened = open_policies(load, threads=1, limits=LIMITS, host_policies=1, max_tokens=2048)
    async with opened as policies:
        yield policies


class CountingBase(ResidentBase):
    """A base that notes how many lines each micro-batch has."""

    read: list[int]

    def score(self, lines: Sequence[Any], *args: Any, **options: Any) -> TokenScores:
        """Score, after a note."""
        self.read.append(len(lines))
        return super().score(lines, *args, **options)


@asynccontextmanager
async def policies_of(
    folder: Path, *, batch_tokens: int, device_policies: int, read: list[int] | None = None
) -> AsyncIterator[ResidentPolicies]:
    """Open policies with micro-batches of 16 tokens, which are counted in ``read``."""

    def load() -> ResidentBase:
        base = load_base(folder)
        base.__class__ = CountingBase
        cast("CountingBase", base).read = [] if read is None else read
        return base

    limits = SchedulerLimits(max_tokens=batch_tokens, max_policies=1, device_policies=device_policies)
    async with open_policies(load, threads=1, limits=limits, host_policies=1, max_tokens=16) as policies:
        yield policies


def replace_inputs(datum: Datum, *, logprobs: float) -> Datum:
    """Return a datum whose sampler's log-probabilities are all one number."""
    (length,) = datum.inputs["target_tokens"].shape
    return structs.replace(datum, inputs={**datum.inputs, "logprobs": floats(np.full(length, logprobs))})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedWave:
    """What a wave came to."""

    passed: Passed
    taken: Stepped | None
    export: StateExport


async def begin_wave(
    policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A
) -> list[object]:
    """Begin pass, step and export of a wave at once, as its driver does; return what each comes to."""
    batch = build_grpo_batch(record)
    begun = [policies.begin_pass(policy_id, TENANT, wave_batch(batch, GRPO))]
    if batch.rows:
        begun.append(policies.begin(policy_id, TENANT, TakeStep(step=ADAM, needs_gradient=True)))
    begun.append(policies.begin(policy_id, TENANT, ExportWeights(after=FIRST)))
    return await asyncio.gather(*begun, return_exceptions=True)


async def step(policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A) -> TrainedWave:
    passed, *taken, export = await begin_wave(policies, record, policy_id=policy_id)
    assert isinstance(passed, Passed)
    assert isinstance(export, StateExport)
    (step,) = taken or (None,)
    assert step is None or isinstance(step, Stepped)
    return TrainedWave(passed=passed, taken=step, export=export)


async def state_of(policies: ResidentPolicies, policy_id: PolicyId = A) -> bytes:
    return await policies.begin(policy_id, TENANT, Copy(with_gradient=True))


def wild(record: WaveRecord) -> WaveRecord:
    """Return a record whose loss is not finite."""
    group = record.groups[0]
    samples = tuple(replace(s, logprobs=(-1e4,) * len(s.tokens)) for s in group.samples)
    return replace(record, groups=(replace(group, samples=samples),))


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


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("backward", [True, False])
async def test_a_long_pass_lets_others_between_its_runs_and_comes_to_the_same_bits(
    algorithm: str, backward: bool, tiny_folder: Path, lora: LoraSpec, make_record: MakeRecord
) -> None:
    """Both policies are of one tenant, and the long pass is begun first."""
    long = work_of(algorithm, file_record(make_record, algorithm), backward=backward)
    found = []
    for batch_tokens in (long.tokens, 16):
        async with policies_of(tiny_folder, batch_tokens=batch_tokens, device_policies=2) as policies:
            for policy_id in (A, B):
                await policies.admit(policy_id, lora, data=None)
            await step(policies, make_record(seed=3))
            passing = asyncio.ensure_future(policies.begin_pass(A, TENANT, long))
            behind = policies.begin(A, TENANT, Copy(with_gradient=True))
            beside = asyncio.ensure_future(policies.begin_pass(B, TENANT, make_pass(1, count=1)))
            first, _ = await asyncio.wait({passing, beside}, return_when=asyncio.FIRST_COMPLETED)
            assert first == ({passing} if batch_tokens == long.tokens else {beside})
            metrics = {
                name: value for name, value in (await passing).metrics.items() if "seconds" not in name
            }
            found.append((metrics, await behind))
            await beside
    assert found[0] == found[1]


async def test_another_policy_waits_for_one_run_of_a_long_pass_at_most(
    tiny_folder: Path, lora: LoraSpec
) -> None:
    """A pass of 84,000 tokens in the review held one of 24 up for all of its seconds."""
    read: list[int] = []
    async with policies_of(tiny_folder, batch_tokens=32, device_policies=2, read=read) as policies:
        for policy_id in (A, B):
            await policies.admit(policy_id, lora, data=None)
        passing = asyncio.ensure_future(policies.begin_pass(A, TENANT, make_pass(1, count=300)))
        for number in range(20):
            while len(read) < 3 * number + 2:
                await asyncio.sleep(0)
            before = len(read)
            await policies.begin_pass(B, TENANT, make_pass(number, count=1))
            assert len(read) <= before + 3, "the run in hand, this pass, and what began since"
        assert not passing.done()
        await passing


async def test_a_long_pass_that_is_swapped_out_between_its_runs_comes_to_the_same_bits(
    tiny_folder: Path, lora: LoraSpec
) -> None:
    """It adds to the gradient of the passes before it, which leaves the device with what it has so far."""
    found = []
    for device_policies in (2, 1):
        async with policies_of(tiny_folder, batch_tokens=32, device_policies=device_policies) as policies:
            for policy_id in (A, B):
                await policies.admit(policy_id, lora, data=None)
            await policies.begin_pass(A, TENANT, make_pass(5))
            long = asyncio.ensure_future(policies.begin_pass(A, TENANT, make_pass(6, count=40)))
            moved = policies.swaps().count
            while not long.done():
                await policies.begin_pass(B, TENANT, make_pass(7))
            assert (policies.swaps().count > moved + 4) is (device_policies == 1)
            found.append(((await long).metrics, await state_of(policies)))
    assert found[0] == found[1]


async def test_a_long_pass_that_nobody_waits_for_ends_at_its_next_run_and_leaves_the_gradient(
    tiny_folder: Path, lora: LoraSpec
) -> None:
    read: list[int] = []
    async with policies_of(tiny_folder, batch_tokens=32, device_policies=1, read=read) as policies:
        await policies.admit(A, lora, data=None)
        await policies.begin_pass(A, TENANT, make_pass(5))
        before = await state_of(policies)
        read.clear()
        passing = asyncio.ensure_future(policies.begin_pass(A, TENANT, make_pass(6, count=300)))
        while len(read) < 3:
            await asyncio.sleep(0)
        passing.cancel()
        assert await state_of(policies) == before
        assert len(read) < 6


async def test_a_long_pass_of_a_policy_that_was_dropped_is_not_gone_on_with(
    tiny_folder: Path, lora: LoraSpec
) -> None:
    read: list[int] = []
    async with policies_of(tiny_folder, batch_tokens=32, device_policies=1, read=read) as policies:
        await policies.admit(A, lora, data=None)
        before = await state_of(policies)
        passing = asyncio.ensure_future(policies.begin_pass(A, TENANT, make_pass(6, count=300)))
        while len(read) < 3:
            await asyncio.sleep(0)
        policies.forget(A)
        with pytest.raises(NotResident):
            await passing
        await policies.admit(A, lora, data=None)
        assert await state_of(policies) == before


async def test_a_long_pass_that_is_refused_leaves_the_gradient(tiny_folder: Path, lora: LoraSpec) -> None:
    async with policies_of(tiny_folder, batch_tokens=32, device_policies=1) as policies:
        await policies.admit(A, lora, data=None)
        await policies.begin_pass(A, TENANT, make_pass(5, "importance_sampling"))
        before = await state_of(policies)
        wild = make_pass(6, "importance_sampling", count=40)
        last = replace_inputs(wild.data[-1], logprobs=-1e4)
        with pytest.raises(NotFinite):
            await policies.begin_pass(A, TENANT, structs.replace(wild, data=(*wild.data[:-1], last)))
        assert await state_of(policies) == before


async def test_a_long_distillation_lets_others_between_its_runs(tiny_folder: Path, lora: LoraSpec) -> None:
    found = []
    for batch_tokens in (4096, 32):
        async with policies_of(tiny_folder, batch_tokens=batch_tokens, device_policies=2) as policies:
            for policy_id in (A, B):
                await policies.admit(policy_id, lora, data=None)
            teacher = write_state(new_state(policies.facts, replace(lora, seed=2)))
            learning = Distillation(distill=make_distill(0, count=20), teacher=lora, data=teacher)
            distilled = asyncio.ensure_future(policies.begin(A, TENANT, learning))
            beside = asyncio.ensure_future(policies.begin(B, TENANT, Copy(with_gradient=False)))
            await asyncio.wait({distilled, beside}, return_when=asyncio.FIRST_COMPLETED)
            assert distilled.done() is (batch_tokens == 4096)
            found.append((await distilled, await state_of(policies)))
    assert found[0] == found[1]


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
    assert [type(one) for one in sound] == [Passed, Stepped, StateExport]
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
