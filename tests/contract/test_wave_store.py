"""Waves as the trainer stores them: whole, once, fenced, and apart from what clients do."""

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import resources

import msgspec
import pytest
from contract.training_rig import (
    BASE,
    CLAIM,
    EARLIER,
    HOLDER,
    LORA,
    NOW,
    OTHER,
    TENANT,
    A,
    B,
    Store,
    done,
    filled,
    new,
    open_store,
)

from mint_common.errors import NotFound, Unavailable
from mint_common.ids import JobId, PolicyId, WaveId
from mint_common.runtime.postgres import open_pool
from mint_common.training import PolicyTaken
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.core.operations import Fenced, Packed, Snapshot
from services.trainer.core.pool import Holder
from services.trainer.core.wave_operations import NewWave, plan_wave
from tests.testing.factories import EXAMPLES

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


def wave(number: int, *, first_seq: int = 0, policy_id: PolicyId = B) -> NewWave:
    completed = replace(
        EXAMPLES["wave.completed"],
        wave_id=WaveId(f"wave_{number}"),
        job_id=JobId("job_1"),
        step=number,
        policy_id=policy_id,
        tenant_id=TENANT,
        base=BASE,
        lora=LORA,
        revision=None,
    )
    return plan_wave(
        completed, latest=None, first_seq=first_seq, can_learn=True, config={}, pulls=False, now=NOW + number
    )


async def append(store: Store, new_wave: NewWave, *, holder: Holder = HOLDER) -> None:
    async with store.pool.acquire() as connection, connection.transaction():
        await store.operations.add_within(connection, holder, new_wave)


async def test_a_wave_is_stored_whole_and_its_session_with_the_first(store: Store) -> None:
    await append(store, wave(1))
    await store.operations.finish(HOLDER, [done(seq, policy_id=B, step=1) for seq in range(3)])
    await append(store, wave(2, first_seq=3))
    session = await store.operations.session(B)
    assert session is not None
    assert (session.is_managed, session.lora, session.step, session.next_seq) == (True, LORA, 1, 3)
    assert await store.operations.managed_sessions() == [session]
    assert await store.operations.taken_step(JobId("job_1")) == 2
    assert await store.operations.taken_step(JobId("job_2")) == 0
    assert [one.seq for one in await store.operations.unfinished([B], is_managed=True)] == [3, 4, 5]
    with pytest.raises(NotFound):  # what it comes to is told by events, not to clients
        await store.operations.result(B, 1)


async def test_what_goes_wrong_with_a_wave_stores_nothing_of_it(store: Store) -> None:
    await append(store, wave(1))
    with pytest.raises(Fenced):
        await append(store, wave(2, first_seq=3), holder=EARLIER)
    with pytest.raises(Unavailable):  # its numbers are another wave's
        await append(store, wave(2, first_seq=2))
    assert await store.operations.taken_step(JobId("job_1")) == 1
    assert len(await store.operations.unfinished([B], is_managed=True)) == 3


async def test_clients_and_managed_jobs_refuse_each_other_s_policies(store: Store) -> None:
    await filled(store, 1)
    with pytest.raises(PolicyTaken, match="by operations"):
        await append(store, wave(1, policy_id=A))
    assert await store.operations.taken_step(JobId("job_1")) == 0
    assert await store.operations.unfinished([A], is_managed=True) == []
    await append(store, wave(1))
    outcomes = await store.operations.add(
        HOLDER, [new(0, policy_id=B), new(9, policy_id=B), new(0, policy_id=B, tenant_id=OTHER)]
    )
    assert [type(one) for one in outcomes] == [PolicyTaken, PolicyTaken, NotFound]


async def test_a_refused_wave_gives_its_step_back(store: Store) -> None:
    await append(store, wave(1))
    refused = [replace(done(seq, policy_id=B), is_refused=True) for seq in range(3)]
    refused[-1] = replace(refused[-1], refuses=WaveId("wave_1"))
    async with store.pool.acquire() as connection, connection.transaction():
        await store.operations.finish_within(connection, HOLDER, refused)
    assert await store.operations.taken_step(JobId("job_1")) == 0
    assert await store.operations.unfinished([B], is_managed=True) == []


async def test_a_wave_s_passes_are_needed_until_a_snapshot_covers_them(store: Store) -> None:
    await append(store, wave(1))
    (waiting,) = await store.operations.needed_passes(B)
    assert waiting == wave(1).stored()[0].payload
    await store.operations.finish(HOLDER, [done(seq, policy_id=B) for seq in (0, 1, 2)])
    await append(store, wave(2, first_seq=3))
    refused = [replace(done(seq, policy_id=B), is_refused=True) for seq in (3, 4, 5)]
    await store.operations.finish(HOLDER, refused)
    assert await store.operations.needed_passes(B) == [waiting]
    assert await store.operations.needed_passes(A) == []
    await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=B, position=3, claim=CLAIM))
    assert await store.operations.needed_passes(B) == []


async def test_results_of_a_wave_are_there_for_its_export(store: Store) -> None:
    await append(store, wave(1))
    await store.operations.finish(HOLDER, [done(seq, policy_id=B) for seq in (0, 1)])
    assert await store.operations.forget_results(before=NOW + 9, limit=10) == (0, [])
    expected = [Packed(data=b"result 0"), Packed(data=b"result 1")]
    assert await store.operations.results(B, (0, 1)) == expected
    await store.operations.finish(HOLDER, [done(2, policy_id=B)])
    await store.operations.forget_results(before=NOW + 9, limit=10)
    assert await store.operations.results(B, (0, 1)) == []


async def test_sessions_of_earlier_versions_go_on_from_their_checkpoint(shared_database: str) -> None:
    folder = resources.files("services.trainer.adapters.migrations")
    files = sorted(one.name for one in folder.iterdir() if one.name.endswith(".sql"))
    pool = await open_pool(shared_database, schema="trainer_before")
    try:
        await pool.execute("DROP SCHEMA IF EXISTS trainer_before CASCADE; CREATE SCHEMA trainer_before")
        for name in files[:3]:
            await pool.execute((folder / name).read_text())
        await pool.execute(
            "INSERT INTO sessions (policy_id, tenant_id, base, lora, step, checkpoint, digest, parent, waves)"
            " VALUES ($1, $2, $3, $4, 2, $5, 'sha256:b', 'sha256:a', 2)",
            A,
            TENANT,
            BASE,
            msgspec.to_builtins(LORA),
            msgspec.to_builtins(CLAIM),
        )
        await pool.execute(
            "INSERT INTO waves (wave_id, policy_id, job_id, job_step, session_step, digest)"
            " VALUES ('wave_2', $1, 'job_1', 2, 2, 'sha256:b')",
            A,
        )
        for name in files[3:]:
            await pool.execute((folder / name).read_text())
        operations = PostgresOperations(pool, base=BASE)
        (session,) = await operations.managed_sessions()
        assert (session.step, session.position, session.next_seq, session.snapshot) == (2, 0, 0, CLAIM)
        assert (session.digest, session.parent, session.lora) == ("sha256:b", "sha256:a", LORA)
        assert await operations.taken_step(JobId("job_1")) == 2
    finally:
        await pool.close()
