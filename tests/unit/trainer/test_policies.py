"""Residency: memory and checkpoints agree, failures forget, skipped waves export the same bytes."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.claims import Claim
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from mint_common.records import WaveRecord
from services.trainer.adapters.policies import ResidentPolicies, open_policies
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.refusals import CheckpointLost, NotFinite
from services.trainer.ports import Stepped, StepSettings

GRPO = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)
A, B, C = (PolicyId(f"policy_{letter}") for letter in "abc")
MakeRecord = Callable[..., WaveRecord]


@pytest.fixture
async def policies(tiny_folder: Path) -> AsyncIterator[ResidentPolicies]:
    async with open_policies(tiny_folder, threads=1, capacity=2, max_tokens=2048) as policies:
        yield policies


def claim_of(data: bytes | None) -> Claim:
    assert data is not None
    return Claim(uri="checkpoints/x", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def step(policies: ResidentPolicies, record: WaveRecord, *, policy_id: PolicyId = A) -> Stepped:
    return await policies.step(policy_id, build_grpo_batch(record), GRPO, parent=None)


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


async def test_the_least_recently_used_policy_leaves_memory(
    policies: ResidentPolicies, lora: LoraSpec, make_record: MakeRecord
) -> None:
    await policies.restore(A, lora, checkpoint=None, data=None)
    await policies.restore(B, lora, checkpoint=None, data=None)
    await step(policies, make_record(skipped=3))
    await policies.restore(C, lora, checkpoint=None, data=None)
    assert [policies.holds(policy_id, None) for policy_id in (A, B, C)] == [True, False, True]


async def test_a_checkpoint_of_something_else_is_lost(policies: ResidentPolicies, lora: LoraSpec) -> None:
    with pytest.raises(CheckpointLost, match="checkpoints/x"):
        await policies.restore(A, lora, checkpoint=claim_of(b"garbage"), data=b"garbage")
    assert not policies.holds(A, None)
