"""Residency: memory and checkpoints agree, failures forget, skipped waves export the same bytes."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor

from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId
from mint_common.records import WaveRecord
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.policies.resident_policies import ResidentPolicies, open_policies
from services.trainer.adapters.policies.tiers import ResidentPolicy
from services.trainer.adapters.states.training_state import new_state, write_state
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.ports.policies import StateCopy, StepResult, StepSettings

from .conftest import facts_of, random_model
from .test_distillation import make_distill

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
A, B, C, D = (PolicyId(f"policy_{letter}") for letter in "abcd")
LIMITS = SchedulerLimits(max_tokens=4096, max_policies=2, device_policies=2)
MakeRecord = Callable[..., WaveRecord]


@pytest.fixture
async def policies(tiny_folder: Path) -> AsyncIterator[ResidentPolicies]:
    load = partial(load_base, tiny_folder)
    opened = open_policies(load, threads=1, limits=LIMITS, host_policies=1, max_tokens=2048)
    async with opened as policies:
        yield policies


def claim_of(data: bytes | None) -> Claim:
    assert data is not None
    return Claim(uri="checkpoints/x", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def step(policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A) -> StepResult:
    return await policies.step(
        policy_id, build_grpo_batch(record), GRPO, tenant_id=TenantId("t"), parent=None
    )


async def test_memory_is_known_by_its_checkpoint(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    assert not policies.holds(A, None)
    await policies.restore(A, lora, checkpoint=None, data=None)
    assert policies.holds(A, None)
    stepped = await step(policies, make_record())
    assert stepped.step == 1
    assert policies.holds(A, claim_of(stepped.checkpoint))
    assert not policies.holds(A, None)


async def test_a_repeated_step_exports_the_same_bytes(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    first = await step(policies, make_record(seed=1))
    lost = await step(policies, make_record(seed=2))
    claim = claim_of(first.checkpoint)
    assert not policies.holds(A, claim)
    await policies.restore(A, lora, checkpoint=claim, data=first.checkpoint)
    again = await step(policies, make_record(seed=2))
    assert again.adapter.files == lost.adapter.files
    assert again.checkpoint == lost.checkpoint


async def test_a_wave_of_skipped_groups_changes_nothing_and_exports_the_same_digest(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    first = await step(policies, make_record())
    skipped = await step(policies, make_record(seed=5, skipped=3))
    assert (skipped.step, skipped.checkpoint) == (1, None)
    assert skipped.adapter.files == first.adapter.files
    assert skipped.metrics["skipped_groups"] == 3
    assert skipped.metrics["ratio_max_error"] > 0
    assert policies.holds(A, claim_of(first.checkpoint))


async def test_a_failed_step_forgets_the_policy(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    record = make_record()
    group = record.groups[0]
    wild = tuple(replace(s, logprobs=(-1e4,) * len(s.tokens)) for s in group.samples)
    with pytest.raises(NotFinite):
        await step(policies, replace(record, groups=(replace(group, samples=wild),)))
    assert not policies.holds(A, None)


async def test_the_least_recently_used_policies_leave_device_and_memory(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    for policy_id in (A, B, C):
        await policies.restore(policy_id, lora, checkpoint=None, data=None)
    assert policies.tiers() == {A: "host", B: "device", C: "device"}
    await policies.restore(D, lora, checkpoint=None, data=None)
    assert policies.tiers() == {B: "host", C: "device", D: "device"}
    assert not policies.holds(A, None)
    assert policies.swaps().count == 2


async def test_a_policy_from_the_host_goes_on_bitwise(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    first = await step(policies, make_record(seed=1))
    for policy_id in (B, C):
        await policies.restore(policy_id, lora, checkpoint=None, data=None)
    assert policies.tiers()[A] == "host"
    second = await step(policies, make_record(seed=2))
    assert policies.tiers()[A] == "device"
    assert policies.swaps().count == 3
    assert policies.swaps().bytes > 3 * len(first.adapter.files["adapter_model.safetensors"])
    await policies.restore(A, lora, checkpoint=claim_of(first.checkpoint), data=first.checkpoint)
    again = await step(policies, make_record(seed=2))
    assert again.checkpoint == second.checkpoint


async def test_policies_that_are_ready_at_once_share_a_step_and_fail_alone(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    sound, record = make_record(seed=1), make_record(seed=2)
    wild = tuple(replace(s, logprobs=(-1e4,) * len(s.tokens)) for s in record.groups[0].samples)
    bad = replace(record, groups=(replace(record.groups[0], samples=wild),))
    for policy_id in (A, B):
        await policies.restore(policy_id, lora, checkpoint=None, data=None)
    results = await asyncio.gather(
        step(policies, sound), step(policies, bad, policy_id=B), return_exceptions=True
    )
    assert isinstance(results[0], StepResult)
    assert isinstance(results[1], NotFinite)
    assert policies.holds(A, claim_of(results[0].checkpoint))
    assert B not in policies.tiers()


class FullBase(ResidentBase):
    """A base on a device whose memory is full when a client's pass comes."""

    def logprobs(self, *_: object) -> Tensor:
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
            breaking = policies.begin_distill(B, TenantId("t"), make_distill(0), lora, teacher, alone=alone)
            copying = policies.begin_copy(A, TenantId("t"), with_gradient=False)
            broken, copied = await asyncio.gather(breaking, copying, return_exceptions=True)
            assert isinstance(broken, RuntimeError)
            assert isinstance(copied, StateCopy) is alone


async def test_a_step_that_nobody_waits_for_any_more_is_not_continued_from(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    unwanted = asyncio.ensure_future(step(policies, make_record(seed=1)))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.gather(unwanted, return_exceptions=True)
    await policies.restore(A, lora, checkpoint=None, data=None)
    wanted = await step(policies, make_record(seed=1))
    assert wanted.step == 1
    assert policies.holds(A, claim_of(wanted.checkpoint))


async def test_a_checkpoint_of_something_else_is_lost(policies: ResidentPolicies, lora: LoraSpec) -> None:
    with pytest.raises(CheckpointLost, match="checkpoints/x"):
        await policies.restore(A, lora, checkpoint=claim_of(b"garbage"), data=b"garbage")
    assert not policies.holds(A, None)


async def test_what_is_forgotten_while_others_make_room_is_not_given_back(
    policies: ResidentPolicies, lora: LoraSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, admitted = policies._worker, (A, B)
    for policy_id in admitted:
        await policies.admit(policy_id, lora, data=None)
    swap_out = worker._swap_out

    async def forget_and_swap_out(residents: Sequence[ResidentPolicy]) -> None:
        if residents:
            policies.forget_admitted()  # as when a term ends
        await swap_out(residents)

    copies = [policies.begin_copy(each, TenantId("t"), with_gradient=False) for each in admitted]
    copying = asyncio.gather(*copies)
    while not worker.at_work:
        await asyncio.sleep(0)
    for policy_id in (C, D):  # exported waves come back meanwhile
        worker.tiers.put(policy_id, ResidentPolicy(new_state(policies.facts, lora), None))
    monkeypatch.setattr(worker, "_swap_out", forget_and_swap_out)
    await copying
    assert not any(policies.has(policy_id) for policy_id in admitted)
