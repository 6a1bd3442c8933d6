"""A person's word that a policy goes on from a revision is carried out once, whatever happens meanwhile."""

import asyncio

import msgspec
import pytest

from mint_common.errors import Unavailable
from mint_common.events import PolicyRemoved
from mint_common.ids import PolicyId
from mint_common.training import Done, Loaded, Resumption
from services.trainer.handlers.driver import Driver
from services.trainer.handlers.drivers import Drivers

from .conftest import Stage, ref
from .faulty import spoil_blobs
from .operating import TENANT, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

A = PolicyId("policy_a")


async def test_a_resumption_that_is_stored_is_carried_out_after_a_restart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        await stage.settled(A, step=1)
    troubles.reads.add("/snapshots/")
    resumption = Resumption(policy_id=A, tenant_id=TENANT, revision=ref(first, 1))
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        await stage.expect(2)
        with monkeypatch.context() as dying:
            dying.setattr(Drivers, "_driver", dies)
            with pytest.raises(Unavailable):
                await client.resume(resumption)
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        assert await client.resume(resumption) == Done(Loaded(step=1))


async def dies(self: Drivers, policy_id: PolicyId) -> Driver:
    """End between storing an operation and handing it on."""
    raise Unavailable(what="the trainer", problem="it was killed")


async def test_a_repeated_resumption_gives_up_no_training(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        resumption = Resumption(policy_id=A, tenant_id=TENANT, revision=ref(first, 1), cause="req_1")
        assert await client.resume(resumption) == Done(Loaded(step=1))
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        second = (await stage.exported(2))[1]
        for _ in range(2):
            assert await client.resume(resumption) == Done(Loaded(step=1))
        (row,) = await stage.rows("SELECT step, digest FROM trainer.training")
        assert (row["step"], row["digest"]) == (second.step, second.digest)
        again = msgspec.structs.replace(resumption, cause="req_2")
        assert await client.resume(again) == Done(Loaded(step=1))
        (row,) = await stage.rows("SELECT step FROM trainer.training")
        assert row["step"] == 1


async def test_a_removed_policy_leaves_no_state_and_holds_no_revision(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await stage.publish(await stage.wave(1))
        await stage.publish(await stage.wave(1, policy="policy_b", record_seed=2))
        first, second = await stage.exported(2)
        kept = first if first.policy_id != A else second
        removed = PolicyRemoved(tenant_id=TENANT, base=first.base, policy_id=A, name="a", actor="key_a")
        await stage.publish(removed)
        await stage.publish(removed, copy="again")
        async with asyncio.timeout(60):
            while await client.digests() != {kept.digest} or any(A in key for key in await stage.snapshots()):
                await asyncio.sleep(0.1)
        rows = await stage.rows("SELECT policy_id FROM trainer.training WHERE closed_at IS NULL")
        assert [row["policy_id"] for row in rows] == [kept.policy_id]
        await stage.publish(await stage.wave(2, policy=kept.policy_id, revision=ref(kept, 1), record_seed=3))
        assert (await stage.exported(3))[-1].parent == kept.digest
