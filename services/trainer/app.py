"""Composition of the trainer: the only file that connects ports with their technologies."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import asyncpg
from fastapi import FastAPI

from mint_common.adapters_format import read_base_facts
from mint_common.algorithms import open_algorithms
from mint_common.blobs.open import open_blobs
from mint_common.bus.nats import connect_nats
from mint_common.client.http import InternalHttp
from mint_common.client.members import Announcement, first_beat, member_state
from mint_common.client.registry import BaseRegistration, RegistryClient
from mint_common.errors import MintError
from mint_common.events import PolicyRemoved, WaveCancelled, WaveCompleted
from mint_common.lora import check_trainable
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from mint_common.runtime.held_folder import hold_folder
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.own_address import member_name, own_url
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.runtime.service import run_service
from services.trainer.adapters.checkpoint_rows_postgres import PostgresCheckpointRows
from services.trainer.adapters.distributed.follower import run_follower
from services.trainer.adapters.distributed.group import RankGroup, open_group
from services.trainer.adapters.merging import FOLDER_PREFIX, MergingProcesses
from services.trainer.adapters.model.placing import compute_deterministically, place
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.adapters.policies.resident_policies import open_policies
from services.trainer.adapters.rendering.rendering import BaseRendering
from services.trainer.adapters.states.stored_states import BlobStates
from services.trainer.adapters.trainer_pool_postgres import TrainerPool
from services.trainer.adapters.training.freed_memory import give_memory_back
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.layer_rules import LayerRules
from services.trainer.core.mismatch_rules import MismatchChoice
from services.trainer.core.placement import Placement
from services.trainer.core.ranks import ALONE, ProcessRank, RankSetup
from services.trainer.core.scheduler import SchedulerLimits
from services.trainer.handlers.counted_reads import CountedReads
from services.trainer.handlers.lease_term import OperationParts, OperationSettings
from services.trainer.handlers.operations import Operations
from services.trainer.handlers.pool_events import PoolEvents
from services.trainer.handlers.pool_peers import PoolPeers
from services.trainer.handlers.terms import Terms
from services.trainer.handlers.waves import WaveIntake
from services.trainer.http import checkpoints as checkpoint_routes
from services.trainer.http import merging as merging_routes
from services.trainer.http import operations as operation_routes
from services.trainer.http import pool as pool_routes
from services.trainer.http import rendering as rendering_routes
from services.trainer.http import sessions as session_routes
from services.trainer.settings import LAYOUTS, TrainerSettings

_log = logging.getLogger(__name__)

SCHEMA = "trainer"
_ACK_WAIT_SECONDS = 10.0
"""Time after which the next trainer receives a wave that a killed one was taking in."""
NICENESS = 10
"""Training gets a tenth of a core while an engine on the same cores wants it, and all of it otherwise."""
_LIMITS = OperationSettings()
_TIDY_SECONDS = 60.0
"""Steps leave some KB each: a cycle of two objects for each tensor that safetensors writes, which Python
collects after some 10,000 steps only, and unused pages in glibc's heaps. Tidying takes milliseconds."""
_MAX_BODY_BYTES = 64 << 20
"""Maximum size of an operation: a pass with all its data."""
# A trainer that freezes within a transaction would keep the lease's row from whoever takes over.
_OPERATION_POOL_SETTINGS = {"idle_in_transaction_session_timeout": "3s"}


@dataclass(slots=True, kw_only=True)
class Trainer:
    """An assembled trainer: its HTTP application and its background work."""

    http: FastAPI
    dispatcher: Dispatcher
    relay: OutboxRelay
    operations: Operations
    terms: Terms
    registration: BaseRegistration
    announcement: Announcement
    ranks: RankGroup

    async def train(self) -> None:
        """Register the base, then take waves in until cancelled."""
        await self.registration.run()
        await self.take_waves()

    async def take_waves(self) -> None:
        """Take waves in while this process is in the pool: else it would only give them back."""
        await self.terms.while_held(self.dispatcher.run)


@asynccontextmanager
async def open_trainer(
    settings: TrainerSettings, process: ProcessRank = ALONE, limits: OperationSettings = _LIMITS
) -> AsyncIterator[Trainer]:
    """Connect, load the base and assemble; leaving closes everything in the opposite order."""
    clock = SystemClock()
    setup = _setup(settings, process)
    check_trainable(read_base_facts(settings.base_dir), field="MINT_TRAINER_BASE_DIR")
    algorithms = ManagedAlgorithms(open_algorithms(settings.algorithms.custom))
    async with AsyncExitStack() as stack:
        pool, locking_pool = await _open_pools(settings.postgres.dsn, stack)
        blobs = await open_blobs(settings.blobs)
        stack.push_async_callback(blobs.close)
        ranks = await stack.enter_async_context(open_group(setup, process))
        policies = await stack.enter_async_context(
            open_policies(
                ranks.load,
                threads=settings.threads,
                limits=SchedulerLimits(
                    max_tokens=settings.batch_tokens,
                    max_policies=settings.batch_policies,
                    device_policies=settings.resident_policies,
                ),
                host_policies=settings.host_policies,
                max_tokens=settings.microbatch_tokens,
                niceness=NICENESS,
                layout=LAYOUTS[settings.export_layout],
            )
        )
        base = policies.facts.name
        bus = await connect_nats(settings.nats.url, replicas=settings.nats.replicas, name=f"trainer-{base}")
        stack.push_async_callback(bus.close)
        registry = InternalHttp(
            settings.peers.registry_url, token=settings.internal.token, peer="the registry"
        )
        stack.push_async_callback(registry.close)

        registration = BaseRegistration(registry=RegistryClient(registry), facts=policies.facts, clock=clock)
        http = create_http(
            title="MinT trainer",
            service="trainer",
            internal_token=settings.internal.token,
            ready=lambda: registration.is_done,
            max_body_bytes=_MAX_BODY_BYTES,
        )
        url = settings.advertise_url or own_url(
            settings.http_host, settings.http_port, towards=settings.peers.registry_url
        )
        store = PostgresOperations(pool, base=base)
        parts = OperationParts(
            policies=policies,
            states=BlobStates(blobs, policies.facts),
            store=store,
            reads=CountedReads(store, clock),
            rows=PostgresCheckpointRows(pool),
            ledger=PostgresLedger(pool, clock),
            blobs=blobs,
            clock=clock,
            algorithms=algorithms,
            settings=replace(
                limits,
                hold_seconds=settings.hold_seconds,
                snapshot_seconds=settings.snapshot_seconds,
                tenant_seconds=settings.tenant_seconds_per_day,
            ),
        )
        pool_of_trainers = TrainerPool(
            locking_pool,
            base=base,
            url=url,
            room=min(settings.batch_policies, settings.resident_policies),
            ttl_seconds=settings.lease_seconds,
            clock=clock,
        )
        peers = PoolPeers(token=settings.internal.token)
        stack.push_async_callback(peers.aclose)
        terms = Terms(parts, pool_of_trainers, peers, is_broken=ranks.is_lost)
        operations = Operations(parts, terms)
        mismatch = _mismatch(settings, policies.rules, setup.placement)
        waves = WaveIntake(parts, terms, mismatch, max_early=2 * settings.batch_policies)
        dispatcher = Dispatcher(
            bus=bus,
            ledger=parts.ledger,
            durable=f"trainer-{base}",
            clock=clock,
            ack_wait_seconds=_ACK_WAIT_SECONDS,
            # As many again are read while the operations of others are computed, and ``max_early`` wait for
            # the waves before them, where sampling runs ahead.
            concurrency=4 * settings.batch_policies,
        )
        events = PoolEvents(terms, clock)
        on_wave = events.on(WaveCompleted, waves.on_wave_completed, opens=True)
        dispatcher.on(WaveCompleted, on_wave, base=base, given_up=waves.on_wave_given_up)
        dispatcher.on(WaveCancelled, events.on(WaveCancelled, waves.on_wave_cancelled), base=base)
        dispatcher.on(PolicyRemoved, events.on(PolicyRemoved, operations.on_policy_removed), base=base)
        session_routes.add_routes(http, parts)
        operation_routes.add_routes(http, operations)
        pool_routes.add_routes(http, operations, events)
        rendering = BaseRendering(settings.base_dir, max_context=policies.facts.max_context)
        stack.callback(rendering.close)
        rendering_routes.add_routes(http, rendering)
        folder = await asyncio.to_thread(hold_folder, FOLDER_PREFIX)
        stack.callback(folder.remove)
        merging = MergingProcesses(blobs, settings.base_dir, folder.path, most=settings.merges)
        merging_routes.add_routes(http, merging)
        checkpoint_routes.add_routes(http, parts)
        yield Trainer(
            http=http,
            dispatcher=dispatcher,
            relay=OutboxRelay(locking_pool, bus, clock),
            operations=operations,
            terms=terms,
            registration=registration,
            announcement=Announcement(
                RegistryClient(registry),
                first_beat(
                    "trainer",
                    member_id=member_name(url),
                    url=url,
                    base=base,
                ),
                state=partial(member_state, http, registration),
                clock=clock,
            ),
            ranks=ranks,
        )


async def _open_pools(dsn: str, stack: AsyncExitStack) -> tuple[asyncpg.Pool, asyncpg.Pool]:
    """Open a pool for operations, without resets, and one for those that lock and listen: relay and lease.

    Each of these two holds a connection, the lease is renewed over a third, and a fourth is to spare.
    """
    locking_pool = await open_pool(dsn, schema=SCHEMA, max_size=4)
    stack.push_async_callback(locking_pool.close)
    await migrate(locking_pool, schema=SCHEMA, package="services.trainer.adapters.migrations")
    pool = await open_pool(dsn, schema=SCHEMA, resets=False, settings=_OPERATION_POOL_SETTINGS)
    stack.push_async_callback(pool.close)
    return pool, locking_pool


def _setup(settings: TrainerSettings, process: ProcessRank) -> RankSetup:
    placement = place(
        device=settings.device,
        dtype=settings.dtype,
        checkpointing=settings.checkpointing,
        memory_share=settings.memory_share,
        process=process,
    )
    if placement.device_type == "cuda" and settings.batch_policies == 1:
        compute_deterministically()
    return RankSetup(
        folder=settings.base_dir,
        sharding=settings.sharding,
        placement=placement,
        threads=settings.threads,
        timeout_seconds=settings.rank_timeout_seconds,
    )


def _mismatch(settings: TrainerSettings, rules: LayerRules, placement: Placement) -> MismatchChoice:
    return MismatchChoice(chosen=settings.mismatch, dtype=placement.dtype, picks_keys=rules.picks_keys)


async def run(settings: TrainerSettings, process: ProcessRank) -> None:
    """Serve until stopped, as rank 0."""
    async with open_trainer(settings, process) as trainer:
        operations = trainer.operations
        background = [
            trainer.train,
            trainer.relay.run,
            trainer.terms.run,
            operations.prune,
            trainer.ranks.watch,
        ]
        answering = [trainer.announcement.run]
        await run_service(trainer.http, settings, [*background, _tidy_memory], answering=answering)


async def _tidy_memory() -> None:
    async def tidy() -> None:
        gc.collect()
        await asyncio.to_thread(give_memory_back)

    await run_periodically(tidy, name="tidy memory", every_seconds=_TIDY_SECONDS, clock=SystemClock())


def run_rank(settings: TrainerSettings, process: ProcessRank) -> int:
    """Follow rank 0 until it leaves; torchrun ends and starts all ranks together."""
    try:
        run_follower(_setup(settings, process), process)
    except (MintError, RuntimeError) as error:
        _log.error("rank stopped", extra={"rank": process.rank, "problem": str(error)})  # not a bug of ours
        return 1
    return 0
