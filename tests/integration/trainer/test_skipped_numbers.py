"""Numbers of operations that were refused: nothing waits for them, and nothing stays of them."""

import asyncio
from collections.abc import Callable

import pytest

from mint_common.ids import PolicyId
from mint_common.training import Done, Pending, Stepped
from services.trainer.app import Trainer, open_trainer

from .conftest import Stage
from .operating import ADAM, TENANT, make_pass, serving
from .test_operations import OTHER, A, opened

pytestmark = pytest.mark.integration


def _driven(trainer: Trainer) -> list[PolicyId]:
    drivers = trainer.terms.current
    assert drivers is not None
    return list(drivers._by_policy)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def test_a_number_that_was_skipped_holds_nothing_up(stage: Stage) -> None:
    async with stage.trainer(hold_seconds=600) as trainer, serving(trainer) as client:
        run = await opened(client)
        run.seq += 1
        second = await run.send(make_pass(1))
        await client.skip(run.policy_id, OTHER, second - 1)
        assert isinstance(await client.outcome(run.policy_id, second, wait_seconds=0.5), Pending)
        await client.skip(run.policy_id, run.tenant_id, second - 1)
        assert isinstance(await client.outcome(run.policy_id, second, wait_seconds=60), Done)


async def test_a_number_skipped_of_a_policy_that_is_not_in_memory_leaves_nothing_behind(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        run = await opened(client)
        await run.do(make_pass(1))  # a crash loses it from memory, and no snapshot has it
    async with (
        stage.trainer(idle_seconds=0.5, snapshot_seconds=0.1) as trainer,
        serving(trainer) as client,
    ):
        run.client = client
        await trainer.terms.drivers()
        await client.skip(A, TENANT, run.seq)
        run.seq += 1
        assert _driven(trainer) == [A]
        async with asyncio.timeout(60):
            await _until(lambda: not _driven(trainer))
            assert isinstance(await run.do(ADAM), Stepped)
            await _until(lambda: not _driven(trainer))


async def test_who_was_refused_while_no_trainer_holds_the_base_is_told_at_once(stage: Stage) -> None:
    async with open_trainer(stage.settings) as trainer, asyncio.timeout(60):
        await trainer.operations.skip(A, TENANT, 1)
