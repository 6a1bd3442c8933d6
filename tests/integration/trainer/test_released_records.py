"""Records of ended jobs: needed until a snapshot covers them, and never again after they were released."""

import asyncio

import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.ids import PolicyId

from .conftest import Stage, ref
from .operating import serving

pytestmark = pytest.mark.integration

A = PolicyId("policy_a")


async def until_released(client: TrainerClient) -> None:
    async with asyncio.timeout(60):
        while await client.release_records(A, []):
            await asyncio.sleep(0.05)


async def test_records_go_when_they_are_covered_and_the_policy_goes_on_bitwise(stage: Stage) -> None:
    async with stage.trainer():
        for step in (1, 2, 3):
            await stage.publish(await stage.wave(step, policy="policy_b"))
        undisturbed = [event.digest for event in await stage.exported(3)]
    async with stage.trainer(snapshot_seconds=600) as trainer, serving(trainer) as client:
        waves = [await stage.wave(step) for step in (1, 2)]
        for wave in waves:
            await stage.publish(wave)
        last = (await stage.exported(5))[-1]
        needed = await client.release_records(A, [waves[1].wave_id])
        assert needed == {wave.record.uri for wave in waves}
    # Nothing of the policy waits: what covers the records is that one asks for them.
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await trainer.operations.began()
        await until_released(client)
        for wave in waves:
            await stage.blobs.delete(wave.record.uri)
    async with stage.trainer():
        await stage.publish(await stage.wave(3, revision=ref(last, 2)))
        events = await stage.exported(6)
    assert [event.digest for event in events[3:]] == undisturbed


async def test_a_wave_that_was_released_before_it_came_is_not_taken_in(stage: Stage) -> None:
    late = await stage.wave(1)
    async with stage.trainer() as trainer, serving(trainer) as client:
        for _ in range(2):
            assert await client.release_records(A, [late.wave_id]) == frozenset()
        await stage.blobs.delete(late.record.uri)
        for copy in ("", "again"):
            await stage.publish(late, copy=copy)
        for step in (1, 2):
            await stage.publish(await stage.wave(step, policy="policy_b"))
        events = await stage.exported(2)
    assert {event.policy_id for event in events} == {"policy_b"}
    assert await stage.rows("SELECT FROM trainer.operations WHERE policy_id = $1", A) == []
    failed = "SELECT FROM trainer.mint_outbox WHERE subject LIKE '%failed%'"
    assert await stage.rows(failed) == []
