"""kill -9 at any failpoint, and the loss of all of NATS' data: the catalog equals what was acknowledged."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from contract.catalog_rig import BASE, NOW, TENANT, new_policy

from mint_common.adapters_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    check_folder,
    stage_adapter,
    store_adapter,
)
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.catalog import PolicyRecord, TenantRecord
from mint_common.errors import AlreadyHandled, NotFound
from mint_common.events import RevisionExported
from mint_common.ids import Digest, JobId, WaveId, new_id
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger, event_message
from mint_common.runtime.postgres import migrate, open_pool
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.aliases import Mover
from tests.integration.registry.mortal import MortalRegistry, live
from tests.own_servers import RunningServer, make_nats
from tests.testing.adapters import make_adapter, tar_of
from tests.testing.crashes import Life

pytestmark = [
    pytest.mark.integration,
    # A process that dies in the middle of connecting leaves the connection behind: here to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 206))]
UPLOADS, EXPORTS, MOVES = 2, 2, 3
FAILPOINTS = {
    f"{side} {what}" for side in ("before", "after") for what in ("blob", "commit", "publish", "ack")
}


@dataclass
class Clients:
    """A trainer, an uploader and somebody who moves an alias; each repeats what it has no answer to."""

    policy: PolicyRecord
    nats_url: str
    blobs: LocalBlobs
    uploads: list[AdapterFiles]
    exports: list[AdapterFiles]
    acknowledged: dict[Digest, int] = field(default_factory=dict)
    moves: list[int] = field(default_factory=list)
    tellings: int = 0

    async def work(self, registry: MortalRegistry) -> None:
        """Do what is left to do."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._upload(registry))
            group.create_task(self._export(registry))
        while len(self.moves) < MOVES:
            target = len(self.moves) % len(self.acknowledged) + 1
            revision = await registry.catalog.revision(self.policy.policy_id, target)
            # One cause a wish: a move whose answer was lost is the same move when it is asked for again.
            mover = Mover(
                actor="client", reason="", at=NOW, cause=f"{self.policy.policy_id} {len(self.moves)}"
            )
            await self._move(registry, revision.ref, mover)
            self.moves.append(target)

    async def _move(self, registry: MortalRegistry, ref, mover: Mover) -> None:
        try:
            await registry.aliases.move(self.policy, "prod", ref, mover, expected=None)
        except AlreadyHandled:
            return

    async def _upload(self, registry: MortalRegistry) -> None:
        for adapter in self.uploads:
            if adapter.digest not in self.acknowledged:
                record = await registry.uploads.upload(self.policy, _tar(adapter), step=0, parent=None)
                self.acknowledged[record.digest] = record.number

    async def _export(self, registry: MortalRegistry) -> None:
        """Tell of each export until it is in the catalog, as rollout's watchdog has a trainer do."""
        bus = await connect_nats(self.nats_url, name="trainer")
        try:
            for adapter in self.exports:
                while adapter.digest not in self.acknowledged:
                    await self._tell(bus, adapter)
                    await self._look(registry, adapter.digest)
        finally:
            await bus.close()

    async def _tell(self, bus, adapter: AdapterFiles) -> None:
        name = f"wave_{adapter.digest[-8:]}"
        event = RevisionExported(
            tenant_id=TENANT,
            base=BASE.name,
            export_id=name,
            policy_id=self.policy.policy_id,
            job_id=JobId("job_1"),
            wave_id=WaveId(name),
            digest=adapter.digest,
            manifest=await store_adapter(self.blobs, adapter, export_id=name),
            parent=None,
            step=adapter.manifest.step,
            metrics={},
        )
        self.tellings += 1
        await bus.publish(event_message(event, cause="trainer", now=NOW, repeats=self.tellings))

    async def _look(self, registry: MortalRegistry, digest: Digest) -> None:
        for _ in range(20):
            try:
                record = await registry.catalog.revision(self.policy.policy_id, digest)
            except NotFound:
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[digest] = record.number
                return


async def _tar(adapter: AdapterFiles) -> AsyncIterator[bytes]:
    yield tar_of({name: adapter.files[name] for name in (WEIGHTS_FILE, CONFIG_FILE)})


@pytest.fixture(scope="module")
def mortal_nats(server_folder: Path) -> Iterator[RunningServer]:
    server = make_nats(server_folder / "mortal-nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def prepared(database: str) -> str:
    pool = await open_pool(database, schema="registry")
    await migrate(pool, schema="registry", package="services.registry.adapters.migrations")
    await PostgresAccounts(pool).add_tenant(TenantRecord(tenant_id=TENANT, name=TENANT, created_at=NOW))
    catalog = PostgresCatalog(pool, PostgresLedger(pool, SystemClock()))
    await catalog.put_base(BASE, now=NOW)
    await pool.close()
    return database


async def _run(dsn: str, nats: RunningServer, folder: Path, seed: int) -> list[str]:
    """Live and die by a seed, then check the catalog; return the points that were passed."""
    drawn = random.Random(seed)
    policy = new_policy(f"seed-{seed}")
    pool = await open_pool(dsn, schema="registry")
    catalog = PostgresCatalog(pool, PostgresLedger(pool, SystemClock()))
    await catalog.add_policy(policy)
    blobs = LocalBlobs(folder / "blobs")
    made = [
        make_adapter(BASE, policy_id=policy.policy_id, step=place + 1, seed=seed * 100 + place)
        for place in range(UPLOADS + EXPORTS)
    ]
    clients = Clients(policy, nats.address, blobs, made[:UPLOADS], made[UPLOADS:])
    passed: list[str] = []
    for points in [*(drawn.randint(0, 40) for _ in range(drawn.randint(1, 4))), None]:
        life = Life(points)
        # In a task of its own: a group of Python 3.11 whose last tasks fail leaves its task being cancelled.
        is_done = await asyncio.create_task(live(dsn, nats.address, blobs, life, clients.work))
        passed += life.passed
        if is_done:
            break
        if drawn.random() < 0.4:
            await asyncio.to_thread(_lose_everything, nats)
    else:
        raise AssertionError("the last life did not end the work")
    await _check(catalog, PostgresAliases(pool, PostgresLedger(pool, SystemClock())), clients, folder)
    await pool.close()
    return passed


def _lose_everything(nats: RunningServer) -> None:
    nats.kill()
    shutil.rmtree(nats.launch.folder / "jetstream")
    nats.start()


async def _check(catalog: PostgresCatalog, aliases: PostgresAliases, clients: Clients, folder: Path) -> None:
    policy_id = clients.policy.policy_id
    rows = await catalog.revisions(policy_id, limit=100, after=0)
    assert {row.digest: row.number for row in rows} == clients.acknowledged
    assert [row.number for row in rows] == list(range(1, UPLOADS + EXPORTS + 1))
    for row in rows:
        staged = folder / new_id("staged")
        manifest = await stage_adapter(clients.blobs, row.manifest, staged)
        check_folder(BASE, manifest, staged)
        assert manifest.digest == row.digest
    history = (await aliases.alias(policy_id, "prod")).history
    assert [move.number for move in history] == clients.moves
    assert [move.sequence for move in history] == list(range(1, MOVES + 1))


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_catalog_equals_what_was_acknowledged(
    prepared: str, mortal_nats: RunningServer, tmp_path: Path, seed: int
) -> None:
    await _run(prepared, mortal_nats, tmp_path, seed)


async def test_every_failpoint_is_one_to_die_at(
    prepared: str, mortal_nats: RunningServer, tmp_path: Path
) -> None:
    assert set(await _run(prepared, mortal_nats, tmp_path, seed=1000)) >= FAILPOINTS
