"""A backup has every state that its rows name, though the trainer replaces states while it is made."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from contract.training_rig import BASE, HOLDER, A, new, open_store

from mint_client.core.refusals import LocalFailureError
from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import Claim
from mint_common.errors import Unavailable
from mint_common.ids import PolicyId
from mint_common.runtime.postgres import open_pool
from services.standalone.adapters import backup
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.core.operations import Packed, Snapshot

pytestmark = pytest.mark.integration


@dataclass(slots=True, kw_only=True)
class Trained:
    """A session whose states a trainer replaces."""

    dsn: str
    folder: Path
    position: int = 1
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def replace_state(self) -> None:
        """Store a newer state, and remove the one before."""
        self.position += 1
        blobs = LocalBlobs(self.folder)
        claim = await blobs.put(_key(A, self.position), _state(self.position))
        async with _operations(self.dsn) as operations:
            snapshot = Snapshot(policy_id=A, position=self.position, claim=claim)
            for unused in await operations.put_snapshot(HOLDER, snapshot):
                await blobs.delete(unused.uri)

    def run(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Do something where another event loop may run."""
        self.threads.submit(lambda: asyncio.run(work())).result()


def _key(policy_id: PolicyId, position: int) -> str:
    return f"training/{policy_id}/snapshots/{position}.safetensors"


def _state(position: int) -> bytes:
    return f"state {position}".encode()


@asynccontextmanager
async def _operations(dsn: str) -> AsyncIterator[PostgresOperations]:
    pool = await open_pool(dsn, schema="trainer")
    try:
        yield PostgresOperations(pool, base=BASE)
    finally:
        await pool.close()


@pytest.fixture
async def trained(database: str, tmp_path: Path) -> AsyncIterator[Trained]:
    """A session with a state, and an operation behind it whose payload is a blob."""
    made = Trained(dsn=database, folder=tmp_path / "blobs")
    payload = await LocalBlobs(made.folder).put("training/payload", b"a pass")
    waiting = replace(new(1), payload=Packed(data=msgspec.msgpack.encode(payload), is_claim=True))
    async with open_store(database) as store:
        assert await store.operations.add(HOLDER, [new(0), waiting]) == [True, True]
        await made.replace_state()
    yield made
    made.threads.shutdown()


async def _back_up(trained: Trained, target: Path) -> None:
    await asyncio.to_thread(backup.back_up, trained.dsn, trained.folder, target)


async def _check_restored(trained: Trained, target: Path, restored: Path) -> int:
    """Restore a backup; return the position of its state, which is there, with what waits behind it."""
    async with _operations(trained.dsn) as operations:
        await operations._pool.execute("DROP SCHEMA trainer CASCADE")
    await asyncio.to_thread(backup.restore, target, trained.dsn, restored)
    blobs = LocalBlobs(restored)
    async with _operations(trained.dsn) as operations:
        session = await operations.session(A)
        assert session is not None
        assert session.snapshot is not None
        assert await blobs.get(session.snapshot) == _state(session.snapshot_position)
        waiting = [each.payload for each in await operations.unfinished([A]) if each.payload.is_claim]
        payloads = [await blobs.get(msgspec.msgpack.decode(each.data, type=Claim)) for each in waiting]
        assert payloads == [b"a pass"]
        return session.snapshot_position


@pytest.mark.parametrize("misses", [0, 1, 3])
async def test_a_session_is_restored_though_its_state_was_replaced_at_every_step_of_its_backup(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misses: int
) -> None:
    dump, copy, dumped, missed = backup.dump_database, backup.copy_blob, [], []

    def dump_amid_work(dsn: str, file: Path, *, snapshot: str | None = None) -> None:
        trained.run(trained.replace_state)
        dump(dsn, file, snapshot=snapshot)
        trained.run(trained.replace_state)
        dumped.append(trained.position)

    def copy_late(file: Path, place: Path) -> bool:
        if "snapshots" in file.parts and len(missed) < misses:
            missed.append(file.name)
            trained.run(trained.replace_state)
        return copy(file, place)

    monkeypatch.setattr(backup, "dump_database", dump_amid_work)
    monkeypatch.setattr(backup, "copy_blob", copy_late)
    await _back_up(trained, tmp_path / "backup")
    assert dumped == [trained.position]
    states = [path.name for path in (tmp_path / "backup" / "blobs").rglob("*.safetensors")]
    position = await _check_restored(trained, tmp_path / "backup", tmp_path / "restored")
    assert position == trained.position - 2
    assert sorted(states) == sorted(Path(_key(A, each)).name for each in (position, trained.position))


async def test_states_replaced_faster_than_they_are_copied_are_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup.copy_blob

    def copy_late(file: Path, place: Path) -> bool:
        if "snapshots" in file.parts:
            trained.run(trained.replace_state)
        return copy(file, place)

    monkeypatch.setattr(backup, "copy_blob", copy_late)
    with pytest.raises(LocalFailureError, match="replaced faster than they are copied"):
        await _back_up(trained, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_a_state_that_was_lost_before_keeps_no_backup_from_being_made(
    trained: Trained, tmp_path: Path
) -> None:
    await LocalBlobs(trained.folder).delete(_key(A, trained.position))
    await _back_up(trained, tmp_path / "backup")
    await LocalBlobs(tmp_path / "backup" / "blobs").put(_key(A, trained.position), _state(trained.position))
    assert await _check_restored(trained, tmp_path / "backup", tmp_path / "restored") == trained.position


async def test_a_database_that_refuses_a_query_is_told(trained: Trained, tmp_path: Path) -> None:
    async with _operations(trained.dsn) as operations:
        await operations._pool.execute("DROP TABLE trainer.checkpoints CASCADE")
    with pytest.raises(Unavailable, match="checkpoints"):
        await _back_up(trained, tmp_path / "backup")
