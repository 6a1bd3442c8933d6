"""Records of ended jobs: needed until a snapshot covers them, and never again after they were released."""

import asyncio

import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.events import PolicyParked, RevisionExported
from mint_common.ids import PolicyId
from services.trainer.core.attempts import MAX_READS
from services.trainer.handlers.executor import Executor

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
        await trainer.terms.began()
        await until_released(client)
        for wave in waves:
            await stage.blobs.delete(wave.record.uri)
    async with stage.trainer():
        await stage.publish(await stage.wave(3, revision=ref(last, 2)))
        events = await stage.exported(6)
    assert [event.digest for event in events[3:]] == undisturbed


async def test_a_restore_to_cover_records_is_counted_while_it_runs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = "SELECT reads FROM trainer.wave_reads WHERE wave_id = $1"
    began, go_on, restore = asyncio.Event(), asyncio.Event(), Executor._restore

    async def restored(self: Executor, *, alone: bool) -> None:
        began.set()
        await go_on.wait()
        await restore(self, alone=alone)

    async with stage.trainer(snapshot_seconds=600):
        await stage.publish(await stage.wave(1))
        await stage.exported(1)
    monkeypatch.setattr(Executor, "_restore", restored)
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await trainer.terms.began()
        await client.release_records(A, [])
        async with asyncio.timeout(60):
            await began.wait()
        assert [row["reads"] for row in await stage.rows(counted, A)] == [1]
        go_on.set()
        await until_released(client)
        assert await stage.rows(counted, A) == []


async def test_a_policy_that_ends_its_trainer_when_restored_to_be_covered_is_parked(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=600):
        await stage.publish(wave := await stage.wave(1))
        (first,) = await stage.exported(1)
    await stage.rows("INSERT INTO trainer.wave_reads VALUES ($1, $2, 0)", A, MAX_READS)
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await trainer.terms.began()
        async with asyncio.timeout(60):
            while len(stage.seen) < 2:
                assert await client.release_records(A, []) == {wave.record.uri}
                await asyncio.sleep(0.1)
        (_, parked) = await stage.expect(2)
        assert isinstance(parked, PolicyParked)
        assert (parked.policy_id, parked.code) == (A, "execution_failed")
        assert f"the trainer ended {MAX_READS} times while the policy was restored" in parked.reason
        # An operation restores it, with which the count ends.
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        assert isinstance((await stage.expect(3))[2], RevisionExported)
        await until_released(client)
    assert await stage.rows("SELECT FROM trainer.wave_reads") == []


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
