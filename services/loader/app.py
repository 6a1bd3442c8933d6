"""Composition of the loader: the only file that connects ports with their technologies."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import psutil
from fastapi import FastAPI

from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.bus.nats import connect_nats
from mint_common.client.http import InternalHttp
from mint_common.client.members import Announcement, MembersWatch, first_beat, member_state
from mint_common.client.registry import BaseRegistration, RegistryClient
from mint_common.errors import SettingInvalid, Unavailable, plain_problem
from mint_common.events import AdapterWanted, AliasMoved, RevisionPublished, RevisionRestored
from mint_common.generation import EngineInfo
from mint_common.ids import EngineId, new_id
from mint_common.inference.fields import MAX_ALTERNATIVES
from mint_common.lora import check_served
from mint_common.runtime.captured_output import captured_output
from mint_common.runtime.clock import Clock, SystemClock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from mint_common.runtime.own_address import own_name, own_url
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.service import run_service
from services.loader import metrics
from services.loader.adapters.announcements import BusAnnouncements
from services.loader.adapters.builder.arena import open_arena
from services.loader.adapters.builder.client import Builder, BuilderConfig, open_builder
from services.loader.adapters.nodes import JoinTerms, Leader, join, prepare_network
from services.loader.adapters.numbering import numbered
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import (
    EngineConfig,
    base_template,
    plan_for_device,
    reasoning_parsers,
    run_workers,
    setup_of,
    start_engine,
)
from services.loader.adapters.working_set_postgres import PostgresWorkingSet
from services.loader.core.execution import Asked, Execution
from services.loader.core.nodes import Address, Node
from services.loader.core.open_work import MAX_REQUESTS, TENANT_SEQUENCES, TENANT_TOKENS, OpenWork
from services.loader.core.parsing import Parsing, plan_parsing
from services.loader.core.requests import Limits
from services.loader.core.residency import Capacity
from services.loader.handlers.engine_watch import EngineWatch
from services.loader.handlers.events import Handlers
from services.loader.handlers.generation import Serving, warm_up
from services.loader.handlers.homes import Homes
from services.loader.handlers.loads import LoadLimits
from services.loader.handlers.prewarms import Prewarms
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.residency_log import EngineIdentity, ResidencyLog
from services.loader.handlers.slots import SlotLimits
from services.loader.handlers.tiers import TierLimits, Tiers
from services.loader.handlers.working_set import WorkingSetSaver
from services.loader.http import add_routes
from services.loader.settings import LoaderSettings

_log = logging.getLogger(__name__)

SCHEMA = "loader"
COMPILE_SECONDS = 5
"""Processor time for compiling the structure of an answer; schemas that clients send take milliseconds."""
AHEAD_BYTES = 4 << 20
"""Maximum size of an adapter whose layout is made ahead rather than asked of the builder again; eight of
them may lie idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """An assembled loader: its HTTP application and its background work."""

    http: FastAPI
    serving: Serving
    tiers: Tiers
    announcements: BusAnnouncements
    dispatcher: Dispatcher
    prewarms: Prewarms
    registration: BaseRegistration
    announcement: Announcement
    members: Sequence[Callable[[], Awaitable[None]]]
    watch: EngineWatch
    working_set: WorkingSetSaver


@asynccontextmanager
async def open_engine(
    settings: LoaderSettings, facts: BaseFacts, clock: Clock
) -> AsyncIterator[tuple[VllmEngine, Builder]]:
    """Start the builder and the engine, and end both. Raises SettingInvalid before either starts."""
    began = clock.monotonic()
    # Blocks the loop on purpose: nothing listens yet, and the engine must start in the main thread.
    execution = plan(settings, facts)
    engine_settings, leader = engine_config(settings, facts, execution), None
    if execution.nodes > 1:
        terms = JoinTerms(token=settings.internal.token, setup=setup_of(engine_settings))
        leader = Leader(Address.read(settings.leader), nodes=execution.nodes, terms=terms)
        engine_settings = with_node(engine_settings, await leader.assemble())
    async with AsyncExitStack() as stack:
        arena = stack.enter_context(open_arena(settings.host_bytes)) if execution.has_arena else ""
        config = builder_config(settings, execution, arena=arena)
        builder = await stack.enter_async_context(open_builder(config, clock))
        engine = start_engine(engine_settings, builder)
        if leader is not None:
            leader.end = engine.kill
        try:
            if arena:
                await engine.open_arena(arena)
            await engine.residents()  # prepares the workers: later it would hold up the engine's loop
            await warm_up(engine)
            _log.info("engine started", extra={"seconds": clock.monotonic() - began, "base": facts.name})
            yield engine, builder
        finally:
            await asyncio.to_thread(engine.close)


async def run_node(settings: LoaderSettings) -> None:
    """Run this machine's workers of an engine that another one leads, until it ends. Raises Unavailable."""
    facts = read_base_facts(settings.base_dir)
    config = engine_config(settings, facts, plan(settings, facts))
    terms = JoinTerms(token=settings.internal.token, setup=setup_of(config))
    node = join(Address.read(settings.leader), rank=settings.node_rank, terms=terms)
    run_workers(with_node(config, node))
    raise Unavailable(what="the engine", problem="a worker of this machine has ended")


OpensEngine = Callable[
    [LoaderSettings, BaseFacts, Clock], AbstractAsyncContextManager[tuple[VllmEngine, Builder]]
]


@asynccontextmanager
async def open_loader(settings: LoaderSettings, *, opens: OpensEngine = open_engine) -> AsyncIterator[Loader]:
    """Open the engine, connect and assemble; leaving closes everything in the opposite order."""
    clock = SystemClock()
    facts = read_base_facts(settings.base_dir)
    check_served(facts, field="MINT_LOADER_BASE_DIR")
    max_context = min(facts.max_context, settings.max_context)
    async with AsyncExitStack() as stack:
        name, cache_dir = stack.enter_context(numbered(settings.engine_id, settings.cache_dir))
        settings = settings.model_copy(update={"engine_id": name, "cache_dir": cache_dir})
        engine, builder = await stack.enter_async_context(opens(settings, facts, clock))

        engine_id = EngineId(settings.engine_id or own_name())
        pool = await open_pool(settings.postgres.dsn, schema=SCHEMA)
        stack.push_async_callback(pool.close)
        await migrate(pool, schema=SCHEMA, package="services.loader.adapters.migrations")
        bus = await connect_nats(
            settings.nats.url, replicas=settings.nats.replicas, name=f"loader-{engine_id}"
        )
        stack.push_async_callback(bus.close)
        registry = InternalHttp(
            settings.peers.registry_url, token=settings.internal.token, peer="the registry"
        )
        stack.push_async_callback(registry.close)

        identity = EngineIdentity(engine_id=engine_id, epoch=new_id("epoch"), base=facts.name)
        announcements = BusAnnouncements(bus, clock, is_busy=lambda: tiers.keeps_requests_waiting)
        log = ResidencyLog(identity, announcements, clock)
        quarantined = Quarantined(log)
        tiers = Tiers(
            engine=engine,
            staging=builder,
            log=log,
            limits=tier_limits(settings),
            clock=clock,
        )
        stack.enter_context(metrics.exported(tiers.resident_set.rows, slots=settings.slots))
        limits = Limits(
            max_context=max_context,
            vocab_size=facts.vocab_size,
            max_completions=settings.max_completions,
            max_logprobs=MAX_ALTERNATIVES,
            no_routes=engine.no_routes,
            no_processed=engine.no_processed,
        )
        working_set = WorkingSetSaver(
            tiers=tiers,
            store=PostgresWorkingSet(pool, engine_id=engine_id, base_digest=facts.digest),
            clock=clock,
            most=settings.host_capacity,
            at_once=settings.load_workers,
        )
        registration = BaseRegistration(registry=RegistryClient(registry), facts=facts, clock=clock)
        watch = EngineWatch(
            engine=engine,
            tiers=tiers,
            clock=clock,
            engine_silence_seconds=settings.engine_silence_seconds,
        )
        http = create_http(
            title="MinT loader",
            service="loader",
            internal_token=settings.internal.token,
            ready=lambda: registration.is_done,
        )
        parsed = parsing(settings, facts)
        info = EngineInfo(
            engine_id=engine_id,
            epoch=identity.epoch,
            base=facts.name,
            base_digest=facts.digest,
            max_context=max_context,
            vocab_size=facts.vocab_size,
            eos_token_id=engine.eos_token_id,
            slots=settings.slots,
            host_capacity=settings.host_capacity,
            dtype=engine.dtype,
            routed_layers=len(facts.experts),
            max_completions=settings.max_completions,
            max_requests=settings.max_requests,
            start_seconds=round(time.time() - psutil.Process().create_time(), 1),
            has_chat_template=bool(parsed.chat_template or base_template(settings.base_dir)),
            tool_parser=parsed.tool_parser or "",
            reasoning_parser=parsed.reasoning_parser or "",
        )
        serving = Serving(
            engine=engine,
            tiers=tiers,
            quarantined=quarantined,
            limits=limits,
            engine_id=engine_id,
            dtype=engine.dtype,
            work=OpenWork(
                max_requests=settings.max_requests,
                max_sequences=max(TENANT_SEQUENCES, MAX_REQUESTS * settings.max_completions),
                max_tokens=max(TENANT_TOKENS, MAX_REQUESTS * settings.max_completions * max_context),
            ),
        )
        add_routes(http, serving=serving, tiers=tiers, info=info, history=log.history)
        prewarms = Prewarms(tiers, clock)
        homes = Homes(engine_id, facts.name, count=settings.prewarm_homes, is_in_use=tiers.is_in_use)
        handlers = Handlers(prewarms, quarantined, homes)
        # What a new engine is to hold is for its requests to say, and not for last week's events.
        dispatcher = Dispatcher(bus=bus, ledger=None, durable=f"loader-{engine_id}", clock=clock, start="new")
        dispatcher.on(RevisionPublished, handlers.on_revision_published, base=facts.name)
        dispatcher.on(RevisionRestored, handlers.on_revision_restored, base=facts.name)
        dispatcher.on(AliasMoved, handlers.on_alias_moved, base=facts.name)
        dispatcher.on(AdapterWanted, handlers.on_adapter_wanted, base=facts.name)
        yield Loader(
            http=http,
            serving=serving,
            tiers=tiers,
            announcements=announcements,
            dispatcher=dispatcher,
            prewarms=prewarms,
            registration=registration,
            announcement=Announcement(
                RegistryClient(registry),
                first_beat(
                    "loader",
                    member_id=engine_id,
                    url=settings.advertise_url
                    or own_url(settings.http_host, settings.http_port, towards=settings.peers.registry_url),
                    base=facts.name,
                    epoch=identity.epoch,
                ),
                state=partial(member_state, http, registration),
                clock=clock,
            ),
            members=MembersWatch(RegistryClient(registry), homes.follow_members, clock).work(bus),
            watch=watch,
            working_set=working_set,
        )


async def run(settings: LoaderSettings) -> None:
    """Serve until stopped, or until the engine dies."""
    if settings.node_rank:
        await run_node(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(captured_output(service="loader"))
        loader = await stack.enter_async_context(open_loader(settings))
        background = [
            loader.announcements.run,
            loader.dispatcher.run,
            loader.prewarms.run,
            loader.registration.run,
            *loader.members,
            loader.watch.reconcile,
            loader.working_set.run,
        ]
        answering = [loader.tiers.run, loader.watch.watch, loader.announcement.run]
        await run_service(loader.http, settings, background, answering=answering)


def plan(settings: LoaderSettings, facts: BaseFacts) -> Execution:
    """Return how the engine computes on the device that is here; loads vLLM."""
    return plan_for_device(
        asked(settings),
        base_dir=settings.base_dir,
        threads=settings.threads,
        quantization=facts.quantization,
    )


def with_node(config: EngineConfig, node: Node) -> EngineConfig:
    """Return the configuration of one machine of several; prepares its network."""
    prepare_network(node)
    return replace(config, node=node)


def asked(settings: LoaderSettings) -> Asked:
    """Return the engine settings; the device decides about `auto`."""
    return Asked(
        dtype=None if settings.dtype == "auto" else settings.dtype,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        nodes=settings.nodes,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        kv_cache_bytes=settings.kv_cache_bytes,
        max_sequences=settings.max_sequences,
        eager=None if settings.eager == "auto" else settings.eager == "true",
        executor=settings.executor,
        engine_args=settings.engine_args,
    )


def engine_config(settings: LoaderSettings, facts: BaseFacts, execution: Execution) -> EngineConfig:
    """Return how to start the engine of these settings."""
    return EngineConfig(
        base_dir=settings.base_dir,
        facts=facts,
        max_context=min(facts.max_context, settings.max_context),
        slots=settings.slots,
        host_capacity=settings.host_capacity,
        max_sequences=execution.max_sequences,
        max_logprobs=MAX_ALTERNATIVES,
        threads=settings.threads,
        compile_seconds=COMPILE_SECONDS,
        execution=execution,
        parsing=parsing(settings, facts),
        default_sampling=settings.default_sampling,
        stats=settings.engine_stats,
    )


def parsing(settings: LoaderSettings, facts: BaseFacts) -> Parsing:
    """Return what reads the base's answers. Raises SettingInvalid for a template that can't be read."""
    template = None
    if settings.chat_template is not None:
        try:
            template = settings.chat_template.read_text()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"can't be read: {plain_problem(error)}"
            raise SettingInvalid(name="MINT_LOADER_CHAT_TEMPLATE", problem=problem) from error
    return plan_parsing(
        facts.architecture,
        base_template=base_template(settings.base_dir),
        reasoning_parsers=reasoning_parsers(),
        tool_parser=settings.tool_parser,
        reasoning_parser=settings.reasoning_parser,
        chat_template=template,
        tool_strict_level=settings.tool_strict_level,
    )


def builder_config(settings: LoaderSettings, execution: Execution, *, arena: str = "") -> BuilderConfig:
    """Return the builder's configuration."""
    return BuilderConfig(
        blobs=settings.blobs,
        base_dir=settings.base_dir,
        cache_dir=settings.cache_dir,
        disk_bytes=settings.disk_bytes,
        silence_seconds=settings.engine_silence_seconds / 5,
        dtype=execution.dtype,
        arena=arena,
        ahead_bytes=AHEAD_BYTES,
    )


def tier_limits(settings: LoaderSettings) -> TierLimits:
    """Return how much may be resident, may wait and may stall."""
    return TierLimits(
        capacity=Capacity(slots=settings.slots, host=settings.host_capacity, host_bytes=settings.host_bytes),
        loads=LoadLimits(
            queue_depth=settings.queue_depth,
            tenant_queue_depth=max(1, settings.queue_depth * 3 // 4),
            workers=settings.load_workers,
        ),
        slots=SlotLimits(
            stall_share=settings.stall_share,
            slice_ms=settings.slice_ms,
        ),
    )
