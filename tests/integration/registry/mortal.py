"""A registry that dies at chosen points of its dealings with blobs, Postgres and NATS, all of them real.

Death is what kill -9 leaves: its connections break, open transactions roll back, messages in hand come again
after their ack wait. The servers live on, unless a test kills those too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.claims import Claim
from mint_common.events import RevisionExported
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import open_pool
from mint_common.runtime.relay import OutboxRelay
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.handlers.exports import ExportHandler
from services.registry.handlers.store_identity import StoreIdentity
from services.registry.handlers.uploads import UploadHandler
from tests.testing.crashes import Crash, Life, MortalBus, MortalLedger

ACK_WAIT_SECONDS = 0.5


class MortalBlobs:
    """A blob store as one process sees it: it may die before or after it has stored something."""

    def __init__(self, blobs: LocalBlobs, life: Life) -> None:
        self._blobs = blobs
        self._life = life

    async def put_file(self, key: str, path: Path) -> Claim:
        self._life.pass_point("before blob")
        claim = await self._blobs.put_file(key, path)
        self._life.pass_point("after blob")
        return claim

    def __getattr__(self, name: str) -> Any:  # reading is harmless
        return getattr(self._blobs, name)


@dataclass(frozen=True, kw_only=True)
class MortalRegistry:
    """What clients reach while it lives."""

    catalog: PostgresCatalog
    aliases: PostgresAliases
    uploads: UploadHandler


Work = Callable[[MortalRegistry], Awaitable[None]]


@asynccontextmanager
async def _opened(
    dsn: str, nats_url: str, blobs: LocalBlobs, life: Life
) -> AsyncIterator[tuple[MortalRegistry, list[Any]]]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        pool = await open_pool(dsn, schema="registry", max_size=4)
        stack.callback(pool.terminate)
        real_bus = await connect_nats(nats_url, name="registry")
        stack.push_async_callback(real_bus.close)
        bus = MortalBus(real_bus, life)
        ledger: Any = MortalLedger(PostgresLedger(pool, clock), life)
        catalog, mortal_blobs = PostgresCatalog(pool, ledger), MortalBlobs(blobs, life)
        dispatcher = Dispatcher(
            bus=bus,
            ledger=ledger,
            durable="registry",
            clock=clock,
            ack_wait_seconds=ACK_WAIT_SECONDS,
            drain_seconds=0.0,
        )
        handler = ExportHandler(
            catalog=catalog,
            identity=StoreIdentity(integrity=PostgresBlobIntegrity(pool, ledger), blobs=mortal_blobs),
            blobs=mortal_blobs,
            clock=clock,
            max_update_ratio=100.0,
        )
        dispatcher.on(RevisionExported, handler.on_revision_exported)
        registry = MortalRegistry(
            catalog=catalog,
            aliases=PostgresAliases(pool, ledger),
            uploads=UploadHandler(catalog=catalog, blobs=mortal_blobs, clock=clock, max_update_ratio=100.0),
        )
        yield registry, [dispatcher.run, OutboxRelay(pool, bus, clock).run]


async def live(dsn: str, nats_url: str, blobs: LocalBlobs, life: Life, work: Work) -> bool:
    """Live until the clients' work is done (True) or death (False)."""
    try:
        async with (
            _opened(dsn, nats_url, blobs, life) as (registry, parts),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(part()) for part in parts]
            await group.create_task(_as_coroutine(work, registry))
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as error:
        deaths, rest = error.split(Crash)
        if deaths is None or rest is not None:
            raise
        return False
    except Crash:
        return False
    return True


async def _as_coroutine(work: Work, registry: MortalRegistry) -> None:
    await work(registry)
