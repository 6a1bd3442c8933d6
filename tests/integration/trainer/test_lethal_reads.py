"""What kills its trainer before it is computed is refused too: while it is read, or its policy restored."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mint_common.client.registry import BaseRegistration
from mint_common.client.trainer import TrainerClient
from mint_common.events import RevisionExported, TrainingFailed
from mint_common.ids import PolicyId
from mint_common.training import Operation, Passed, Refused, Stepped, Submission
from services.standalone.adapters.launch import free_port
from services.trainer.app import run
from services.trainer.core.attempts import MAX_READS
from services.trainer.core.ranks import ProcessRank
from services.trainer.handlers import executor, waves
from services.trainer.handlers.executor import Executor
from services.trainer.handlers.waves import MAX_WAVE_READS
from services.trainer.settings import TrainerSettings

from .conftest import Stage
from .killing import MortalTrainer
from .operating import ADAM, TENANT, Run, make_pass
from .test_lethal_operations import keep_alive
from .test_operation_crashes import patiently_submit, patiently_wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

LETHAL, OTHER = PolicyId("policy_lethal"), PolicyId("policy_other")
BIG = 4000
"""Data of a pass whose payload is a blob of its own."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def run_dying_of_reads(settings: TrainerSettings, process: ProcessRank) -> None:
    """Run a trainer that dies of a big payload."""
    unpack = executor.unpack

    async def unpacked(blobs: Any, packed: Any) -> bytes:
        if packed.is_claim:
            die()
        return await unpack(blobs, packed)

    executor.unpack = unpacked
    await run(settings, process)


async def run_dying_of_restores(settings: TrainerSettings, process: ProcessRank) -> None:
    """Run a trainer that dies when it restores a policy that was trained."""
    restore = Executor._restore

    async def restored(self: Executor, *, alone: bool) -> None:
        if self._session.policy_id == LETHAL and self._session.step:
            die()
        await restore(self, alone=alone)

    Executor._restore = restored  # type: ignore[method-assign]  # of this process
    await run(settings, process)


async def run_dying_of_records(settings: TrainerSettings, process: ProcessRank) -> None:
    """Run a trainer that dies of the record of one policy's wave."""
    read_record = waves.WaveIntake._read_record

    async def read(self: waves.WaveIntake, wave: Any, *more: Any) -> Any:
        if wave.policy_id == LETHAL:
            die()
        return await read_record(self, wave, *more)

    async def registered(self: BaseRegistration) -> None:
        """Take waves in without a registry."""

    BaseRegistration.run = registered  # type: ignore[method-assign]  # of this process
    waves.WaveIntake._read_record = read  # type: ignore[method-assign]  # of this process
    await run(settings, process)


@asynccontextmanager
async def kept_alive(stage: Stage, run_: Any) -> AsyncIterator[tuple[MortalTrainer, list[int]]]:
    """Run a trainer that starts again whenever it has died; count the deaths."""
    changes = {"http_port": free_port(), "batch_policies": 8, "snapshot_seconds": 0.0}
    trainer = MortalTrainer(stage.settings.model_copy(update=changes))
    trainer.run = run_
    deaths: list[int] = []
    await trainer.start()
    keeping = asyncio.create_task(keep_alive(trainer, deaths))
    try:
        yield trainer, deaths
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        trainer.kill()


async def test_an_operation_that_kills_its_trainer_while_it_is_read_is_refused(stage: Stage) -> None:
    async with kept_alive(stage, run_dying_of_reads) as (trainer, deaths):
        client = trainer.client()
        for policy_id in (LETHAL, OTHER):
            await Run(client, policy_id).open()
        # What is not next when it arrives is read in its turn.
        for first, operation in ((3, ADAM), (2, make_pass(3, data=BIG)), (1, make_pass(1))):
            await send(client, LETHAL, operation, first=first)
        await send(client, OTHER, make_pass(1), ADAM)
        async with asyncio.timeout(200):
            refused = await patiently_wait(client, LETHAL, 2)
            assert isinstance(refused, Refused)
            assert refused.error["code"] == "execution_failed"
            others = [(LETHAL, 1), (LETHAL, 3), (OTHER, 1), (OTHER, 2)]
            results = [await Run(client, policy_id).result(seq) for policy_id, seq in others]
        assert [type(result) for result in results] == [Passed, Stepped, Passed, Stepped]
        assert len(deaths) == MAX_READS
        await client.aclose()


async def test_an_operation_whose_policy_kills_its_trainer_when_restored_is_refused(stage: Stage) -> None:
    async with kept_alive(stage, run_dying_of_restores) as (trainer, deaths):
        client = trainer.client()
        for policy_id in (LETHAL, OTHER):
            await Run(client, policy_id).open()
        await send(client, LETHAL, make_pass(1), ADAM)
        await patiently_wait(client, LETHAL, 2)
        trainer.kill()
        await send(client, LETHAL, make_pass(2), first=3)
        await send(client, OTHER, make_pass(1), ADAM)
        async with asyncio.timeout(200):
            refused = await patiently_wait(client, LETHAL, 3)
            assert isinstance(refused, Refused)
            assert refused.error["code"] == "execution_failed"
            results = [await Run(client, OTHER).result(seq) for seq in (1, 2)]
        assert [type(result) for result in results] == [Passed, Stepped]
        assert len(deaths) == 2 + MAX_READS  # the first kill is from outside, the second leaves no trace
        await client.aclose()


async def send(client: TrainerClient, policy_id: PolicyId, *operations: Operation, first: int = 1) -> None:
    """Submit operations, whatever becomes of the trainer meanwhile."""
    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for seq, operation in enumerate(operations, first):
            group.create_task(patiently_submit(client, Submission(policy_id, TENANT, seq, operation)))


@pytest.mark.slow
async def test_a_wave_whose_record_kills_its_trainer_fails_its_job(stage: Stage) -> None:
    async with kept_alive(stage, run_dying_of_records) as (_, deaths):
        await stage.publish(await stage.wave(1, policy=LETHAL))
        await stage.publish(await stage.wave(1, policy=OTHER))
        async with asyncio.timeout(200):
            while len({type(event) for event in stage.seen}) < 2:
                await asyncio.sleep(0.1)
    told = {event.policy_id: event for event in stage.seen}  # some more than once
    failed, exported = told[LETHAL], told[OTHER]
    assert isinstance(failed, TrainingFailed)
    assert isinstance(exported, RevisionExported)
    assert f"the trainer ended {MAX_WAVE_READS} times" in failed.reason
    assert len(deaths) == MAX_WAVE_READS
    assert await stage.rows("SELECT 1 FROM trainer.wave_reads WHERE wave_id = $1", exported.wave_id) == []
