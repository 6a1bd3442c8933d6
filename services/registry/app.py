"""Composition of the registry: the only file that chooses the adapter of each port."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg
from fastapi import FastAPI

from mint_common.blobs.open import open_blobs
from mint_common.bus.nats import connect_nats
from mint_common.events import AdapterNonFinite, EvaluationRecorded, RevisionExported, WaveCancelled
from mint_common.members import FORGET_SECONDS
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_routes import include_routes
from mint_common.runtime.held_folder import hold_folder
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.runtime.service import run_service
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.adapters.faulty_postgres import PostgresFaulty
from services.registry.adapters.members_postgres import PostgresMembers
from services.registry.adapters.owners_postgres import PostgresOwners
from services.registry.adapters.rules_postgres import PostgresRules
from services.registry.adapters.timeline_postgres import PostgresTimeline
from services.registry.handlers.bootstrap import bootstrap
from services.registry.handlers.collector import Collector
from services.registry.handlers.diffs import DiffHandler
from services.registry.handlers.exports import ExportHandler
from services.registry.handlers.quarantine import QuarantineHandler
from services.registry.handlers.reconciler import Reconciler
from services.registry.handlers.rules import RuleHandler
from services.registry.handlers.scratch import PREFIX, Scratch
from services.registry.handlers.store_identity import StoreIdentity
from services.registry.handlers.uploads import UploadHandler
from services.registry.http import accounts, aliases, bases, members, policies, revisions
from services.registry.http.context import Registry
from services.registry.settings import RegistrySettings

SCHEMA = "registry"
LOOKUP_CONNECTIONS = 4
"""Connections reserved for look-ups of keys and names, which every gateway request waits for; long lists
cannot take them."""
SILENT_SECONDS = 1.0
"""Interval at which it looks for members whose lease has ended."""
ACK_WAIT_SECONDS = 5.0
"""Time after which messages of a killed registry are delivered again; a check that takes longer renews
it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryApp:
    """An assembled registry: its HTTP application and its background work."""

    http: FastAPI
    dispatcher: Dispatcher
    relay: OutboxRelay
    reconciler: Reconciler | None
    rules: RuleHandler
    members: PostgresMembers


@asynccontextmanager
async def open_registry(settings: RegistrySettings) -> AsyncIterator[RegistryApp]:
    """Connect and assemble; leaving closes everything in the opposite order."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        # For session locks: of the walks over revisions and folders, and of the outbox relay.
        pool = await open_pool(settings.postgres.dsn, schema=SCHEMA, max_size=4)
        stack.push_async_callback(pool.close)
        await migrate(pool, schema=SCHEMA, package="services.registry.adapters.migrations")
        quick_pool = await open_quick_pool(settings.postgres.dsn)
        stack.push_async_callback(quick_pool.close)
        lookup_pool = await open_quick_pool(settings.postgres.dsn, max_size=LOOKUP_CONNECTIONS)
        stack.push_async_callback(lookup_pool.close)
        blobs = await open_blobs(settings.blobs)
        stack.push_async_callback(blobs.close)
        bus = await connect_nats(settings.nats.url, replicas=settings.nats.replicas, name="registry")
        stack.push_async_callback(bus.close)

        held = await asyncio.to_thread(hold_folder, PREFIX)
        stack.callback(held.remove)
        scratch = Scratch(held.path)
        ledger = PostgresLedger(quick_pool, clock)
        catalog = PostgresCatalog(quick_pool, ledger, settings.quotas)
        integrity = PostgresBlobIntegrity(pool, PostgresLedger(pool, clock))
        evaluations = PostgresEvaluations(quick_pool, ledger)
        max_update_ratio = settings.max_update_ratio or math.inf
        registry = Registry(
            keys=PostgresAccounts(lookup_pool),
            names=PostgresCatalog(lookup_pool, ledger),
            accounts=PostgresAccounts(quick_pool, settings.quotas),
            catalog=catalog,
            aliases=PostgresAliases(quick_pool, ledger),
            evaluations=evaluations,
            rules=PostgresRules(quick_pool, ledger),
            timeline=PostgresTimeline(quick_pool),
            faulty=PostgresFaulty(quick_pool),
            owners=PostgresOwners(quick_pool),
            diffs=DiffHandler(catalog=catalog, evaluations=evaluations, blobs=blobs, scratch=scratch),
            uploads=UploadHandler(
                catalog=catalog,
                blobs=blobs,
                clock=clock,
                max_update_ratio=max_update_ratio,
                scratch=scratch,
            ),
            collector=Collector(
                catalog=catalog,
                integrity=integrity,
                blobs=blobs,
                clock=clock,
                grace_seconds=settings.collection_grace_seconds,
            ),
            members=PostgresMembers(lookup_pool, ledger),
            clock=clock,
        )
        if settings.bootstrap_key:
            await bootstrap(registry.accounts, settings.bootstrap_key, clock)

        identity = StoreIdentity(integrity=integrity, blobs=blobs)
        await identity.try_to_confirm()
        handler = ExportHandler(
            catalog=registry.catalog,
            identity=identity,
            blobs=blobs,
            clock=clock,
            max_update_ratio=max_update_ratio,
            scratch=scratch,
        )
        dispatcher = Dispatcher(
            bus=bus,
            ledger=ledger,
            durable="registry",
            clock=clock,
            ack_wait_seconds=ACK_WAIT_SECONDS,
            concurrency=1,  # numbers of revisions follow the order of their exports
        )
        dispatcher.on(RevisionExported, handler.on_revision_exported, given_up=handler.on_export_given_up)
        dispatcher.on(WaveCancelled, handler.on_wave_cancelled)
        rules = RuleHandler(
            catalog=catalog,
            aliases=registry.aliases,
            evaluations=registry.evaluations,
            rules=registry.rules,
            clock=clock,
        )
        dispatcher.on(EvaluationRecorded, rules.on_evaluation_recorded)
        dispatcher.on(AdapterNonFinite, QuarantineHandler(integrity=integrity).on_adapter_non_finite)
        http = create_http(
            title="MinT registry",
            service="registry",
            internal_token=settings.internal.token,
            ready=lambda: True,
            max_body_bytes=None,  # `BodyRoute` reads bodies
        )
        http.state.parts = registry
        http.state.ledger = ledger
        in_order = (
            policies,
            accounts,
            revisions,
            aliases,
            members,
            bases,
        )  # what is asked most often comes first
        include_routes(http.router, *(module.router for module in in_order))
        reconciler = None
        if settings.reconcile_bytes_per_second:
            pace = settings.reconcile_bytes_per_second
            reconciler = Reconciler(integrity=integrity, blobs=blobs, clock=clock, bytes_per_second=pace)
        yield RegistryApp(
            http=http,
            dispatcher=dispatcher,
            relay=OutboxRelay(pool, bus, clock),
            reconciler=reconciler,
            rules=rules,
            members=registry.members,
        )


async def open_quick_pool(dsn: str, *, max_size: int = 12) -> asyncpg.Pool:
    """Open a pool for queries that leave no session state: without a reset, each is one round trip."""
    return await open_pool(dsn, schema=SCHEMA, max_size=max_size, resets=False)


async def run(settings: RegistrySettings) -> None:
    """Serve until stopped."""
    async with open_registry(settings) as registry:
        background: list[Callable[[], Awaitable[None]]] = [
            registry.dispatcher.run,
            registry.relay.run,
            registry.rules.run,
            partial(
                run_periodically,
                registry.members.tell_silent,
                name="tell of silent members",
                every_seconds=SILENT_SECONDS,
                clock=SystemClock(),
            ),
            partial(
                run_periodically,
                registry.members.forget,
                name="forget members",
                every_seconds=FORGET_SECONDS / 4,
                clock=SystemClock(),
            ),
        ]
        if registry.reconciler is not None:
            background.append(registry.reconciler.run)
        await run_service(registry.http, settings, background)
