"""An operation is blamed for the ends of the process while it was computed, and for nothing else."""

import asyncio
import threading
from typing import Any

import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import Claim
from mint_common.errors import Unavailable
from mint_common.ids import PolicyId
from mint_common.training import (
    CheckpointRef,
    Export,
    Exported,
    Load,
    Loaded,
    Passed,
    Refused,
    Save,
    Saved,
)
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.adapters.policies import resident_policies
from services.trainer.adapters.policies.resident_policies import ResidentPolicies
from services.trainer.adapters.trainer_pool_postgres import TrainerPool
from services.trainer.app import Trainer
from services.trainer.core.operations import StoredOperation
from services.trainer.core.pool import Holder
from services.trainer.handlers import terms
from services.trainer.handlers.lease_term import OperationParts

from .conftest import Stage
from .faulty import spoil_blobs
from .operating import ADAM, TENANT, Run, make_pass, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

A = PolicyId("policy_a")
LARGE = 1500
SAVE = Save(name="one", overwrite=False, ttl_seconds=None, metadata={})


async def killed(_: OperationParts) -> None:
    """End as a killed process does, which takes nothing back."""


async def attempts(stage: Stage, seq: int) -> int:
    """Return what an operation's row counts."""
    (row,) = await stage.rows("SELECT attempts FROM trainer.operations WHERE seq = $1", seq)
    return int(row["attempts"])


async def has_lease(trainer: Trainer, *, is_held: bool) -> None:
    """Wait until a trainer has the lease, or has lost it."""
    async with asyncio.timeout(30):
        while trainer.operations.info.has_lease is not is_held:
            await asyncio.sleep(0.05)


async def test_ends_of_terms_are_no_ends_of_the_process(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, is_away = list[int](), threading.Event(), False
    carry_out_run = resident_policies.carry_out_run

    def held(base: Any, tiers: Any, tasks: Any, *more: Any, **options: Any) -> Any:
        if len(getattr(tasks[0].work, "data", ())) == LARGE:
            entered.append(1)
            go.wait(60)
        return carry_out_run(base, tiers, tasks, *more, **options)

    monkeypatch.setattr(resident_policies, "carry_out_run", held)
    renew, take_back = TrainerPool.renew, PostgresOperations.take_back_attempts

    async def renewed(self: TrainerPool, holder: Holder) -> None:
        if is_away:
            raise Unavailable(what="the database", problem="gone")
        await renew(self, holder)

    async def taken_back(self: PostgresOperations, noted: Any) -> None:
        if is_away:
            raise Unavailable(what="the database", problem="gone")
        await take_back(self, noted)

    monkeypatch.setattr(TrainerPool, "renew", renewed)
    monkeypatch.setattr(PostgresOperations, "take_back_attempts", taken_back)
    async with stage.trainer() as trainer, serving(trainer) as client:
        run = Run(client, A)
        await run.open()
        seq = await run.send(make_pass(3, data=LARGE))
        for number in (1, 2):
            while len(entered) < number:
                await asyncio.sleep(0.05)
            assert await attempts(stage, seq) == 1
            is_away = True
            await has_lease(trainer, is_held=False)
            is_away = False
            go.set()
            await has_lease(trainer, is_held=True)
            if number == 1:
                go.clear()
        assert isinstance(await run.result(seq), Passed)


async def test_what_waits_for_the_store_is_not_blamed_for_kills(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    monkeypatch.setattr(terms, "forget_attempts", killed)
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        run = Run(client, A)
        await run.open()
        for operation in (make_pass(1), ADAM, SAVE):
            await run.do(operation)
        troubles.reads.add("/checkpoints/")
        seq = await run.send(Load(checkpoint=CheckpointRef(A, "training", "one"), with_optimizer=True))
        await parked(troubles.tried)
    for _ in range(2):
        troubles.tried.clear()
        async with stage.trainer(snapshot_seconds=3600):
            await parked(troubles.tried)
            assert await attempts(stage, seq) == 0
    troubles.reads.clear()
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        assert isinstance(await Run(client, A).result(seq), Loaded)


async def test_what_waits_for_a_slow_store_holds_up_nothing_else_that_is_apart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_quick, put = asyncio.Event(), LocalBlobs.put

    async def slow_put(self: LocalBlobs, key: str, data: bytes) -> Claim:
        if "/checkpoints/" in key:
            await is_quick.wait()
        return await put(self, key, data)

    monkeypatch.setattr(LocalBlobs, "put", slow_put)
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        slow, quick = Run(client, A), Run(client, PolicyId("policy_b"))
        for run in (slow, quick):
            await run.open()
            await run.do(make_pass(1))
        saving = await slow.send(SAVE)
        drivers = await trainer.terms.drivers()
        for run in (slow, quick):
            driver = drivers.find(run.policy_id)
            assert driver is not None
            driver.attempts.found(
                StoredOperation(
                    policy_id=run.policy_id, seq=run.seq, tenant_id=TENANT, payload=None, attempts=1
                )
            )
        exporting = await slow.send(Export(name=None, ttl_seconds=None, metadata={}))
        await asyncio.sleep(0.3)
        assert isinstance(await quick.do(make_pass(2)), Passed)
        is_quick.set()
        assert isinstance(await slow.result(saving), Saved)
        assert isinstance(await slow.result(exporting), Exported)


async def test_a_step_that_is_refused_leaves_no_gradient_in_memory(stage: Stage) -> None:
    gradients = []
    for is_restarted in (False, True):
        policy_id = PolicyId(f"policy_{is_restarted}")
        lasting = {"snapshot_seconds": 3600, "idle_seconds": 3600}
        async with stage.trainer(**lasting) as trainer, serving(trainer) as client:
            run = Run(client, policy_id)
            await run.open()
            for operation in (make_pass(1), ADAM, make_pass(2)):
                await run.do(operation)
            driver = (await trainer.terms.drivers()).find(policy_id)
            assert driver is not None
            driver.attempts.found(
                StoredOperation(policy_id=policy_id, seq=4, tenant_id=TENANT, payload=None, attempts=2)
            )
            seq = await run.send(ADAM)
            refused = await client.outcome(policy_id, seq, wait_seconds=20)
            assert isinstance(refused, Refused)
            if not is_restarted:
                gradients.append(await norm_after(run, trainer))
        if is_restarted:
            async with stage.trainer(**lasting) as trainer, serving(trainer) as client:
                gradients.append(await norm_after(Run(client, policy_id, seq=seq + 1), trainer))
    assert gradients == [0.0, 0.0]


async def norm_after(run: Run, trainer: Trainer) -> float:
    """Return the norm of a policy's gradient after a pass that adds nothing to it."""
    await run.do(make_pass(3, backward=False))
    policies = trainer.operations._parts.policies
    assert isinstance(policies, ResidentPolicies)
    resident = policies._tiers.get(run.policy_id)
    assert resident is not None
    gradient = resident.state.lora.leaf.grad
    return 0.0 if gradient is None else float(gradient.norm())


async def parked(tried: list[str]) -> None:
    """Wait until a read has failed, and what follows from that is done."""
    async with asyncio.timeout(20):
        while not tried:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
