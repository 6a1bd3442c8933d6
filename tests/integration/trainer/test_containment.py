"""What goes wrong with one policy stays with it: it is retried, or waits with a reason; all others train."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.errors import NotFound
from mint_common.events import Event, PolicyParked, RevisionExported, TrainingFailed, WaveCompleted
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.runtime.postgres import open_pool
from mint_common.training import (
    CheckpointRef,
    Close,
    Done,
    Load,
    Loaded,
    Operation,
    Passed,
    Pending,
    Resumption,
    Save,
    Saved,
    SessionClosed,
    Stepped,
)
from services.trainer.adapters.policies.tasks import PolicyTask
from services.trainer.handlers import orphans as orphan_walks
from services.trainer.handlers.waves import WaveIntake
from tests.testing.older_trainer import hold_as_before

from .conftest import Stage, ref
from .faulty import Troubles, spoil_blobs, spoil_computing
from .operating import ADAM, TENANT, Run, make_pass, serving
from .test_waves import sessions_of

pytestmark = pytest.mark.integration

A, B = PolicyId("policy_a"), PolicyId("policy_b")
SAVE = Save(name="one", overwrite=False, ttl_seconds=None, metadata={})


async def trained(client: TrainerClient, policy_id: PolicyId, *, steps: int = 1) -> Run:
    """Return a policy that was trained a little."""
    run = Run(client, policy_id)
    await run.open()
    for number in range(steps):
        await run.do(make_pass(number))
        await run.do(ADAM)
    return run


async def reason(run: Run, seq: int) -> str:
    """Return why an operation waits, when that is known."""
    async with asyncio.timeout(20):
        while True:
            outcome = await run.client.outcome(run.policy_id, seq, wait_seconds=0)
            assert isinstance(outcome, Pending), outcome
            if outcome.reason:
                return outcome.reason
            await asyncio.sleep(0.05)


async def terms(stage: Stage) -> int:
    """Return how many terms have begun."""
    (row,) = await stage.rows("SELECT max(token) AS token FROM trainer.trainers")
    return int(row["token"])


async def test_a_fault_of_a_shared_batch_costs_replays_alone_and_no_result(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = False

    def fails(tasks: list[PolicyTask]) -> BaseException | None:
        shared = len({task.policy_id for task in tasks}) > 1
        return RuntimeError("CUDA out of memory") if is_full and shared else None

    spoil_computing(monkeypatch, fails)
    together = {"batch_policies": 8, "snapshot_seconds": 3600, "idle_seconds": 3600}
    async with stage.trainer(**together) as trainer, serving(trainer) as client:
        runs = [await trained(client, policy_id, steps=3) for policy_id in (A, B)]
        is_full = True
        seqs = await asyncio.gather(*(run.send(make_pass(9)) for run in runs))
        results = [await run.result(seq) for run, seq in zip(runs, seqs, strict=True)]
        assert all(isinstance(result, Passed) for result in results)
        is_full = False
        assert isinstance(await runs[0].do(ADAM), Stepped)


async def test_a_replay_that_fails_for_a_while_loses_no_policy(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.trainer(snapshot_seconds=3600) as trainer, serving(trainer) as client:
        await trained(client, A, steps=2)
    failures = 3

    def fails(tasks: list[PolicyTask]) -> BaseException | None:
        nonlocal failures
        failures -= 1
        return RuntimeError("CUDA out of memory") if failures >= 0 else None

    spoil_computing(monkeypatch, fails)
    async with stage.trainer() as trainer, serving(trainer) as client:
        run = Run(client, A, seq=5)
        assert isinstance(await run.do(make_pass(5)), Passed)
        assert isinstance(await run.do(ADAM), Stepped)


async def test_a_snapshot_that_cannot_be_read_parks_its_policy_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        for policy_id in (A, B):
            await trained(client, policy_id)
            await stage.settled(policy_id, step=1)
    troubles.reads.add(f"training/{A}/snapshots")
    async with stage.trainer() as trainer, serving(trainer) as client:
        parked, other = Run(client, A, seq=3), Run(client, B, seq=3)
        seq = await parked.send(make_pass(5))
        assert await reason(parked, seq) == "the blob folder does not answer: Input/output error"
        before = await terms(stage)
        assert isinstance(await other.do(make_pass(5)), Passed)
        assert isinstance(await other.do(ADAM), Stepped)
        (event,) = await stage.expect(1)
        assert isinstance(event, PolicyParked)
        assert (event.policy_id, event.code, event.retry_seconds) == (A, "unavailable", 2.0)
        assert await terms(stage) == before
        troubles.reads.clear()
        assert isinstance(await parked.result(seq), Passed)
    assert len(troubles.tried) in {2, 3}


async def test_an_operation_of_a_newer_version_parks_its_policy_alone(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        for policy_id in (A, B):
            await trained(client, policy_id)
            await stage.settled(policy_id, step=1)
    newer = msgspec.msgpack.encode({"type": "newer_kind", "x": 1})
    await stage.rows(
        "INSERT INTO trainer.operations (policy_id, seq, tenant_id, kind, digest, payload, payload_is_claim,"
        " submitted_at) VALUES ($1, 3, 'default', 'newer_kind', '', $2, false, 0)",
        A,
        newer,
    )
    async with stage.trainer() as trainer, serving(trainer) as client:
        other = Run(client, B, seq=3)
        assert isinstance(await other.do(make_pass(5)), Passed)
        assert "newer_kind" in await reason(Run(client, A), 3)
        assert await terms(stage) == 2
    # A trainer of the version that stored it can read it.
    data = msgspec.msgpack.encode(make_pass(5))
    await stage.rows("UPDATE trainer.operations SET payload = $1 WHERE seq = 3 AND policy_id = $2", data, A)
    async with stage.trainer() as trainer, serving(trainer) as client:
        assert isinstance(await Run(client, A).result(3), Passed)


async def test_a_policy_that_no_longer_fits_the_trainer_is_parked_alone(stage: Stage) -> None:
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        for policy_id in (A, B):
            await trained(client, policy_id)
            await stage.settled(policy_id, step=1)
    await stage.rows("UPDATE trainer.training SET lora = lora || '{\"rank\": 4096}' WHERE policy_id = $1", A)
    async with stage.trainer() as trainer, serving(trainer) as client:
        parked, other = Run(client, A, seq=3), Run(client, B, seq=3)
        seq = await parked.send(make_pass(5))
        assert "rank" in await reason(parked, seq)
        assert isinstance(await other.do(make_pass(5)), Passed)


async def test_a_checkpoint_that_cannot_be_read_now_is_loaded_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer() as trainer, serving(trainer) as client:
        run, other = await trained(client, A), await trained(client, B)
        await run.do(SAVE)
        troubles.reads.add(f"training/{A}/checkpoints")
        seq = await run.send(Load(checkpoint=CheckpointRef(A, "training", "one"), with_optimizer=True))
        assert "does not answer" in await reason(run, seq)
        assert isinstance(await other.do(make_pass(5)), Passed)
        troubles.reads.clear()
        await run.result(seq)
        assert await terms(stage) == 1


async def test_a_store_that_fails_beside_training_drops_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer(snapshot_seconds=0, result_seconds=0.1) as trainer, serving(trainer) as client:
        run = await trained(client, A)
        await stage.settled(A, step=1)
        troubles.deletes.add("training/")
        troubles.writes.add("snapshots")
        for number in range(3):
            assert isinstance(await run.do(make_pass(number, data=6000)), Passed)
            assert isinstance(await run.do(ADAM), Stepped)
        assert isinstance(await run.do(msgspec.structs.replace(SAVE, ttl_seconds=1)), Saved)
        assert {"snapshots", "results"} <= {key.split("/")[2] for key in await tried(troubles, "results")}
        assert await terms(stage) == 1
        troubles.deletes.clear()
        troubles.writes.clear()
        await stage.settled(A, step=4)
        async with asyncio.timeout(90):  # a sweep that has failed is tried again within a minute
            while [key async for key in stage.blobs.list("training/") if "/snapshots/" not in key]:
                await asyncio.sleep(0.1)


async def tried(troubles: Troubles, part: str) -> list[str]:
    """Return the keys that were tried in vain, once one of a kind is among them."""
    async with asyncio.timeout(20):
        while not any(part in key for key in troubles.tried):
            await asyncio.sleep(0.05)
    return troubles.tried


async def test_a_commit_waits_for_the_blob_that_it_needs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer() as trainer, serving(trainer) as client:
        run, other = await trained(client, A), await trained(client, B)
        troubles.writes.add(f"training/{A}/checkpoints")
        seq = await run.send(SAVE)
        assert "does not answer" in await reason(run, seq)
        assert isinstance(await other.do(SAVE), Saved)
        troubles.writes.clear()
        assert isinstance(await run.result(seq), Saved)
        assert await terms(stage) == 1


@pytest.mark.parametrize("last", [make_pass(1, backward=False), SAVE], ids=["pass", "save"])
async def test_a_policy_leaves_memory_when_nothing_more_arrives(stage: Stage, last: Operation) -> None:
    changes = {
        "snapshot_seconds": 0.1,
        "idle_seconds": 0.3,
        "resident_policies": 1,
        "host_policies": 1,
    }
    async with stage.trainer(**changes) as trainer, serving(trainer) as client:
        for number in range(5):
            policy_id = PolicyId(f"policy_{number}")
            run = await trained(client, policy_id)
            await stage.settled(policy_id, step=1)
            await run.do(last)
        other = await trained(client, PolicyId("policy_other"))
        async with asyncio.timeout(30):
            # Who has no room is dropped when another policy comes.
            while sum((await sessions_of(trainer))["in_memory"].values()) > 3:
                await other.do(make_pass(1))
                await asyncio.sleep(0.1)


async def test_a_trainer_takes_no_waves_while_one_of_the_version_before_has_the_lease(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    take = WaveIntake.on_wave_completed

    async def recorded(self: WaveIntake, wave: WaveCompleted) -> Sequence[Event]:
        taken.append(wave)
        return await take(self, wave)

    monkeypatch.setattr(WaveIntake, "on_wave_completed", recorded)
    pool = await open_pool(stage.settings.postgres.dsn, schema="trainer")
    async with stage.trainer() as trainer:
        await trainer.terms.began()
        holding = asyncio.create_task(hold_as_before(pool, BaseName("tiny")))
        await stage.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON database = pg_database.oid"
            " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        )
        async with asyncio.timeout(30):
            while trainer.operations.info.has_lease:
                await asyncio.sleep(0.1)
        await stage.publish(await stage.wave(1))
        await asyncio.sleep(2.0)
        assert not taken
        holding.cancel()
        await stage.exported(1)
        assert taken
    await pool.close()


async def test_what_is_refused_leaves_no_payload(stage: Stage) -> None:
    async with stage.trainer() as trainer, serving(trainer) as client:
        run = await trained(client, A)
        await run.do(Close())
        big, missing = make_pass(1, data=4000), Run(client, B, seq=1)
        for refused, error in ((run, SessionClosed), (missing, NotFound)):
            with pytest.raises(error):
                await refused.send(big)
        assert not [key async for key in stage.blobs.list("training/") if "/operations/" in key]


async def test_what_a_crash_left_is_collected_by_the_second_walk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = {"snapshot_seconds": 0, "hold_seconds": 3600}
    async with stage.trainer(**waits) as trainer, serving(trainer) as client:
        run = await trained(client, A)
        await run.do(SAVE)
        await run.do(make_pass(1, data=6000))
        await stage.settled(A, step=1)
        run.seq += 1
        await run.send(make_pass(2, data=6000))  # behind a gap
    kept = [key async for key in stage.blobs.list(f"training/{A}/")]
    assert {key.split("/")[2] for key in kept} == {"checkpoints", "operations", "results", "snapshots"}
    orphans = [f"training/{A}/{name}" for name in ("operations/77-ab", "results/2", "snapshots/9-x")]
    elsewhere = ["training/policy_of_others/results/2", f"training/{A}/notes/2"]
    for key in (*orphans, *elsewhere):
        await stage.blobs.put(key, b"left")
    monkeypatch.setattr(orphan_walks, "WALK_SECONDS", 0.5)
    async with stage.trainer(**waits), asyncio.timeout(30):
        while not {one async for one in stage.blobs.list(f"training/{A}/")}.isdisjoint(orphans):
            await asyncio.sleep(0.1)
    assert {one async for one in stage.blobs.list("training/")} == {*kept, *elsewhere}


@pytest.mark.parametrize("is_gone", [True, False], ids=["lost", "unreadable"])
async def test_a_policy_goes_on_from_a_revision_when_a_person_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, is_gone: bool
) -> None:
    troubles = spoil_blobs(monkeypatch)
    async with stage.trainer(snapshot_seconds=0):
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        await stage.settled(A, step=1)
    if is_gone:
        for key in await stage.snapshots():
            await stage.blobs.delete(key)
    troubles.reads.add("/snapshots/")
    resumption = Resumption(policy_id=A, tenant_id=TENANT, revision=ref(first, 1))
    if is_gone:
        troubles.reads.clear()
    async with stage.trainer(snapshot_seconds=0) as trainer, serving(trainer) as client:
        await stage.publish(await stage.wave(2, revision=ref(first, 1)))
        (event,) = (await stage.expect(2))[1:]
        assert isinstance(event, TrainingFailed if is_gone else PolicyParked)
        with pytest.raises(NotFound):
            await client.resume(msgspec.structs.replace(resumption, tenant_id=TenantId("other")))
        assert await client.resume(resumption) == Done(Loaded(step=1))
        if is_gone:
            await stage.publish(await stage.wave(1, revision=ref(first, 1), job="job_new"))
        (exported,) = (await stage.expect(3))[2:]
        assert isinstance(exported, RevisionExported)
        assert (exported.step, exported.parent) == (2, first.digest)
    # What was done since is stored as ever.
    troubles.reads.clear()
    async with stage.trainer() as trainer, serving(trainer) as client:
        await stage.publish(await stage.wave(1, revision=ref(exported, 2), job="job_third"))
        (third,) = (await stage.expect(4))[3:]
        assert isinstance(third, RevisionExported)
        assert (third.step, third.parent) == (3, exported.digest)
