"""A long pass is computed in runs, between which other policies have their turn."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from mint_common.events import LoraSpec
from services.trainer.adapters.states.training_state import new_state, write_state
from services.trainer.core.operations import NotResident
from services.trainer.core.policy_work import Copy, Distillation
from services.trainer.core.refusals import NotFinite

from .policy_waves import (
    TENANT,
    A,
    B,
    MakeRecord,
    policies_of,
    replace_inputs,
    state_of,
    step,
)
from .test_distillation import make_distill
from .test_file_passes import file_record, work_of
from .test_passes import make_pass


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
