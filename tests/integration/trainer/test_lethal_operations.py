"""An operation that kills its trainer is refused in the end, and what others sent is done."""

import asyncio
import os
import signal
from functools import partial
from typing import Any

import pytest

from mint_common.ids import PolicyId
from mint_common.training import Operation, Passed, Refused, Stepped, Submission
from services.standalone.adapters.launch import free_port
from services.trainer.adapters.policies import resident_policies
from services.trainer.app import run
from services.trainer.core.ranks import ProcessRank
from services.trainer.settings import TrainerSettings

from .conftest import Stage
from .killing import MortalTrainer
from .operating import ADAM, TENANT, Run, make_pass
from .test_operation_crashes import patiently_submit, patiently_wait

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SMALL, LARGE = 7, 1500
"""How many data a pass has that kills; the tokens of the latter are noted before they are computed."""


def carried_out(carry_out: Any, base: Any, tiers: Any, tasks: Any, *more: Any, **options: Any) -> Any:
    """Do as the original, or die."""
    if any(len(getattr(task.work, "data", ())) in {SMALL, LARGE} for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return carry_out(base, tiers, tasks, *more, **options)


async def run_mortally(settings: TrainerSettings, process: ProcessRank) -> None:
    """Run a trainer that dies of some passes."""
    for name in ("carry_out", "carry_out_run"):
        setattr(resident_policies, name, partial(carried_out, getattr(resident_policies, name)))
    await run(settings, process)


async def keep_alive(trainer: MortalTrainer, deaths: list[int]) -> None:
    """Start a trainer again whenever it has died."""
    while True:
        assert trainer.process is not None
        await asyncio.to_thread(trainer.process.join)
        deaths.append(trainer.pid)
        await trainer.start()


@pytest.mark.parametrize(("data", "most_deaths"), [(SMALL, 3), (LARGE, 2)], ids=["small", "large"])
async def test_an_operation_that_kills_its_trainer_is_refused(
    stage: Stage, data: int, most_deaths: int
) -> None:
    settings = stage.settings.model_copy(update={"http_port": free_port(), "batch_policies": 8})
    trainer = MortalTrainer(settings)
    trainer.run = run_mortally
    deaths: list[int] = []
    await trainer.start()
    client = trainer.client()
    lethal, others = PolicyId("policy_lethal"), [PolicyId(f"policy_{number}") for number in range(3)]
    keeping = asyncio.create_task(keep_alive(trainer, deaths))
    try:
        for policy_id in (lethal, *others):
            await Run(client, policy_id).open()
        script: list[Operation] = [make_pass(1), ADAM, make_pass(2), ADAM]
        killing = [make_pass(1), ADAM, make_pass(3, data=data), ADAM]
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            for seq in range(4):
                for policy_id in (lethal, *others):
                    operation = (killing if policy_id == lethal else script)[seq]
                    sent = Submission(policy_id, TENANT, seq + 1, operation)
                    group.create_task(patiently_submit(client, sent))
        async with asyncio.timeout(200):
            refused = await patiently_wait(client, lethal, 3)
            assert isinstance(refused, Refused)
            assert refused.error["code"] == "execution_failed"
            assert "the trainer ended 2 times" in str(refused.error["message"])
            step = await Run(client, lethal).result(4)
            assert isinstance(step, Stepped)
            for policy_id in others:
                results = [await Run(client, policy_id).result(seq) for seq in range(1, 5)]
                assert [type(result) for result in results] == [Passed, Stepped, Passed, Stepped]
        assert len(deaths) == most_deaths
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await client.aclose()
        trainer.kill()
