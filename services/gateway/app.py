"""Composition of the gateway: the only place that constructs its adapters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial

import asyncpg
from fastapi import FastAPI

from mint_common.algorithms import open_algorithms
from mint_common.blobs.open import open_blobs
from mint_common.blobs.port import Blobs
from mint_common.bounds import DAY_SECONDS
from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Bus
from mint_common.catalog import Resolution
from mint_common.client.directory import EngineDirectory
from mint_common.client.http import InternalHttp
from mint_common.client.members import Announcement, FleetWatch, first_beat
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import Unavailable
from mint_common.ids import new_id
from mint_common.line_budget import LineBudget
from mint_common.members import BEAT_SECONDS, NO_BASE, MemberState
from mint_common.runtime.clock import Clock, SystemClock
from mint_common.runtime.fair_gate import FairGate, LoopGate
from mint_common.runtime.own_address import member_name, own_url
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.runtime.service import run_service
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.handover import Handover
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.adapters.other_gateways import OtherGateways
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.adapters.revision_files import BlobRevisionFiles
from services.gateway.adapters.rollout import RolloutClient
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.adapters.shared_log import SharedLog
from services.gateway.adapters.tinker_checkpoints import NamesAndPaths, TrainedCheckpoints
from services.gateway.adapters.tinker_exports import ExportDecisions
from services.gateway.adapters.tinker_operations import TrainingFutures
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.adapters.tinker_samples import EngineSamples
from services.gateway.adapters.webhook_queue_postgres import PostgresWebhookQueue
from services.gateway.adapters.webhook_sender import HttpWebhookSender
from services.gateway.adapters.webhooks_postgres import PostgresWebhooks
from services.gateway.core.browser_sessions import BrowserSessions
from services.gateway.core.callers import KeyMemory
from services.gateway.core.episode_keys import EpisodeKeys
from services.gateway.core.resolutions import ResolutionCache
from services.gateway.core.tinker.downloads import TicketSigner
from services.gateway.core.tinker.ids import SAMPLE_PREFIX, gateway_tag
from services.gateway.core.tinker.sample_queue import SampleBudgets
from services.gateway.core.webhooks.retries import RetryPolicy
from services.gateway.handlers.webhooks import WebhookCourier, WebhookIntake
from services.gateway.http.console.api import OwnApi
from services.gateway.http.console.context import ConsoleParts
from services.gateway.http.console.rendering import Pages
from services.gateway.http.console.shared import SharedParts
from services.gateway.http.edge.context import EdgeParts
from services.gateway.http.edge.cors import allow_origins
from services.gateway.http.mint.context import CatalogParts, EventParts, ForwardLimits, JobParts, WebhookParts
from services.gateway.http.openai.context import InferenceParts
from services.gateway.http.public import build_http, name_algorithms
from services.gateway.http.tinker.context import Tinker
from services.gateway.settings import GatewaySettings

SCHEMA = "gateway"
KEY_SECONDS, NAME_SECONDS = 10.0, 5.0
"""Maximum age of a cached key and of a resolved model name without a change event."""
COLD_SHARE, COLD_REQUESTS = 0.12, 4096
"""Share of the event loop for beginning requests for cold adapters while others are answered, and the maximum
that waits for it. As the loader's share for filling slots (0.1): those requests wait for a load anyway."""
KEYS = 10_000
"""Maximum number of cached verified keys."""
LOOKUP_SECONDS = 15.0
"""Time limit of a registry look-up of a key or a name, which takes milliseconds."""
PRUNE_SECONDS = 600.0
"""Interval of the sweep of expired rows: answers to Idempotency-Keys, Tinker sessions, sampling sessions."""
SESSION_SECONDS = 30 * DAY_SECONDS
"""Time that a Tinker session without runs stays listed after its client's last request."""
RESOLUTIONS = 100_000
"""Maximum number of cached model names, about 100 MB."""
LARGE_BODIES = 256
"""Maximum number of large bodies that wait to be decoded; the memory for bodies limits them first."""
LARGE_SHARE = 0.04
"""Share of the event loop that decoding large bodies may use while other requests are open. Below 5 %, so it
cannot move a p95."""
LARGE_WARM_SECONDS = 2.0
"""Time that large bodies still yield after a warm request, for a client that sends one after another."""
KEY_BYTES = 64 << 20
"""Maximum bytes of request bodies held for one key; Tinker's client limits itself to 50 MB."""
KEY_SAMPLES, KEY_SEQUENCES, KEY_PROMPT_BYTES = 4096, 32_768, 64 << 20
"""Maximum samples, sequences and prompt bytes queued for one key: twice what one client sends by itself."""
TENANT_KEYS = 2
"""Limit of a tenant's queued samples, in units of the limits of one key."""
TURN_REQUESTS = 1
"""Requests of a tenant begun in one iteration of the event loop; more of them take turns."""
TENANT_PROMPTS = 320
"""Maximum prompts of a tenant answered at a time: fewer than a loader accepts from one tenant."""
TENANT_ANSWERS = 32
"""Maximum unsent answers per tenant, in units of the largest answer."""
TENANT_REQUESTS = 2048
"""Maximum open requests per tenant, polls included: a quarter of the gateway's connections."""
TENANT_ARRIVING = 4
"""Maximum bodies of files per tenant at a time: each may use as much disk as the largest file."""
SHORT_REQUESTS, TENANT_SHORT_REQUESTS = 256, 32
"""Maximum short requests to another service at a time, and per tenant: fewer than the connections to it."""
TENANT_TRIALS = 256
"""Maximum long requests of a tenant to rollout at a time: submissions, trials of graders, uploads."""
TENANT_AGENT_REQUESTS = 512
"""Maximum open claims and model calls of a tenant's agents: two for each episode that they may have."""
TENANT_LONG_REQUESTS = 72
"""Maximum long requests of a tenant to the registry at a time: as many as it accepts."""
TENANT_STREAMS = 64
"""Maximum event streams per tenant: each takes a subscription, and a connection while it is read."""
TENANT_DOWNLOADS = 16
"""Maximum downloads per tenant: each holds a part of 4 MiB while its client reads."""
REPORT_LINES = 20
"""Log lines per second for errors that clients report of themselves."""
HANDOVER_SECONDS = 5.0
"""Time that a start waits for rollout to take over what the previous version stored."""
LEASE_TIMEOUTS = 3
"""Lease of a webhook in time-outs of one attempt; a killed gateway's webhooks wait that long."""


async def _open_pools(dsn: str, stack: AsyncExitStack) -> tuple[asyncpg.Pool, asyncpg.Pool]:
    """Open the pool of all adapters, without resets, and the relay's, which locks and listens."""
    relay_pool = await open_pool(dsn, schema=SCHEMA, max_size=2)
    stack.push_async_callback(relay_pool.close)
    await migrate(relay_pool, schema=SCHEMA, package="services.gateway.adapters.migrations")
    pool = await open_pool(dsn, schema=SCHEMA, resets=False)
    stack.push_async_callback(pool.close)
    return pool, relay_pool


async def run(settings: GatewaySettings) -> None:
    """Connect, migrate, serve until asked to stop, disconnect."""
    clock = SystemClock()
    http = build_http(ready=lambda: True, trusts_traces=settings.trust_traceparent)
    algorithms = open_algorithms(settings.algorithms.custom)
    if settings.algorithms.custom:
        name_algorithms(http, algorithms)
    if settings.cors_origins:
        allow_origins(http, settings.cors_origins)
    async with AsyncExitStack() as stack:
        pool, relay_pool = await _open_pools(settings.postgres.dsn, stack)
        bus = await connect_nats(settings.nats.url, replicas=settings.nats.replicas, name="gateway")
        stack.push_async_callback(bus.close)
        blobs = await open_blobs(settings.blobs)
        stack.push_async_callback(blobs.close)
        rollout = _internal(settings, settings.peers.rollout_url, "rollout", stack)
        handover = Handover(pool, rollout)
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER_SECONDS):
                await handover.hand_over()
        runs, requests = PostgresTinkerRuns(pool), PostgresRequests(pool, clock)

        parts = http.state
        parts.catalog = catalog = _open_catalog(settings, runs, blobs, clock, stack)
        exports = ExportDecisions(catalog.registry, clock)
        epoch = new_id("epoch")
        others = OtherGateways(tag=gateway_tag(epoch))
        stack.push_async_callback(others.close)
        parts.tinker = tinker = _tinker(settings, pool, runs, catalog, exports, others, clock)
        parts.edge = _edge(settings, catalog, requests, clock)
        parts.inference = _inference(settings)
        parts.jobs = JobParts(
            rollout=RolloutClient(rollout, handover),
            limits=_forward_limits("your tenant's submissions and trials", TENANT_TRIALS),
            of_agents=_forward_limits("your tenant's calls of agents", TENANT_AGENT_REQUESTS),
            episode_keys=EpisodeKeys(secret=settings.internal.token.encode()),
            public_url=settings.public_url,
            arriving=TenantBudget(what="your tenant's uploads of files", limit=TENANT_ARRIVING),
            downloads=catalog.downloads,
        )
        console = OwnApi(http)
        stack.push_async_callback(console.close)
        parts.console = ConsoleParts(
            pages=Pages(clock), api=console, shared=SharedParts(clock), address=settings.public_url
        )
        streams = TenantBudget(what="your tenant's event streams", limit=TENANT_STREAMS)
        parts.events = EventParts(log=SharedLog(bus, clock), streams=streams, clock=clock)
        parts.webhooks, intake, courier = _open_webhooks(settings, pool, bus, clock, stack)

        pruned: dict[str, Callable[[], Awaitable[None]]] = {
            "requests": requests.prune,
            "audit": partial(requests.prune_audit, keep_days=settings.keep_audit_days),
            "sessions": lambda: runs.prune(before=clock.now() - SESSION_SECONDS),
            "sampling sessions": tinker.sampling_sessions.prune,
        }
        background: list[Callable[[], Awaitable[None]]] = [
            OutboxRelay(relay_pool, bus, clock).run,
            partial(catalog.engines.follow, bus),
            *FleetWatch(
                catalog.registry, catalog.engines, catalog.trainers, clock, others.follow_members
            ).work(bus),
            partial(catalog.resolver.follow, bus),
            partial(exports.follow, bus),
            partial(catalog.resolver.ask_for_loads, bus),
            intake.run,
            courier.run,
            partial(prune, pruned, clock),
            tinker.samples.run,
            partial(handover.run, clock),
        ]
        announce = partial(_announce, settings, catalog.registry, http, epoch, clock)
        await run_service(http, settings, background, answering=[announce])


async def _announce(
    settings: GatewaySettings, registry: RegistryClient, http: FastAPI, epoch: str, clock: Clock
) -> None:
    """Tell the others until cancelled where this gateway is, which has the samples that it took in."""
    url = settings.advertise_url
    if not url and settings.http_port == 0:
        return  # tests bind any free port, which is not known here
    while not url:
        try:
            url = own_url(settings.http_host, settings.http_port, towards=settings.peers.registry_url)
        except Unavailable:
            await clock.sleep(BEAT_SECONDS)
    said = first_beat("gateway", member_id=member_name(url), url=url, base=NO_BASE, epoch=epoch)

    def state() -> MemberState:
        return "draining" if http.state.in_hand.is_draining else "ready"

    await Announcement(registry, said, state=state, clock=clock).run()


def _internal(
    settings: GatewaySettings, url: str, peer: str, stack: AsyncExitStack, *, seconds: float = 30
) -> InternalHttp:
    http = InternalHttp(url, token=settings.internal.token, peer=peer, timeout_seconds=seconds)
    stack.push_async_callback(http.close)
    return http


def _open_catalog(
    settings: GatewaySettings, runs: PostgresTinkerRuns, blobs: Blobs, clock: Clock, stack: AsyncExitStack
) -> CatalogParts:
    peers, token = settings.peers, settings.internal.token
    registry = RegistryClient(
        _internal(settings, peers.registry_url, "the registry", stack),
        lookups=_internal(settings, peers.registry_url, "the registry", stack, seconds=LOOKUP_SECONDS),
    )
    engines = EngineDirectory(peers.loader_urls, token=token, check_served=registry.check_served)
    stack.push_async_callback(engines.aclose)
    trainers = TrainerDirectory(peers.trainer_urls, token=token)
    stack.push_async_callback(trainers.aclose)

    def is_ready(meant: Resolution) -> bool:
        return meant.revision is None or engines.holds(meant.base, meant.revision.digest)

    cache = ResolutionCache(
        capacity=RESOLUTIONS,
        lease_seconds=NAME_SECONDS,
        switch_seconds=settings.switch_seconds,
        is_ready=is_ready,
    )
    names = NamesAndPaths(registry, TrainedCheckpoints(runs, trainers, registry))
    return CatalogParts(
        registry=registry,
        limits=_forward_limits("your tenant's comparisons and uploads", TENANT_LONG_REQUESTS),
        resolver=CachedResolver(names, cache, clock),
        engines=engines,
        trainers=trainers,
        revision_files=BlobRevisionFiles(blobs),
        downloads=TenantBudget(what="your tenant's downloads", limit=TENANT_DOWNLOADS),
    )


def _edge(
    settings: GatewaySettings, catalog: CatalogParts, requests: PostgresRequests, clock: Clock
) -> EdgeParts:
    return EdgeParts(
        clock=clock,
        keys=KeyChecks(catalog.registry, KeyMemory(ttl_seconds=KEY_SECONDS, capacity=KEYS), clock),
        sessions=BrowserSessions(secret=settings.internal.token.encode()),
        requests=requests,
        in_hand=TenantBudget(what="your tenant's open requests", limit=TENANT_REQUESTS),
        admission=LoopGate(free=TURN_REQUESTS),
        bodies=TenantBudget(total=settings.body_bytes, share=1, first_fits=False),
        key_bodies=TenantBudget(limit=KEY_BYTES, first_fits=False),
        body_admission=LoopGate(
            callers=TenantBudget(what="the queue of large bodies", total=LARGE_BODIES, share=1),
            share=LARGE_SHARE,
            warm_seconds=LARGE_WARM_SECONDS,
        ),
    )


def _inference(settings: GatewaySettings) -> InferenceParts:
    answers = TENANT_ANSWERS * settings.max_answer_bytes
    return InferenceParts(
        max_answer_bytes=settings.max_answer_bytes,
        open_prompts=TenantBudget(what="your tenant's prompts", limit=TENANT_PROMPTS),
        open_answers=TenantBudget(what="your tenant's answers", limit=answers),
        cold_admission=LoopGate(
            callers=TenantBudget(what="the queue of cold requests", total=COLD_REQUESTS, share=1),
            share=COLD_SHARE,
        ),
    )


def _tinker(  # noqa: PLR0917  # each has a type of its own
    settings: GatewaySettings,
    pool: asyncpg.Pool,
    runs: PostgresTinkerRuns,
    catalog: CatalogParts,
    exports: ExportDecisions,
    others: OtherGateways,
    clock: Clock,
) -> Tinker:
    sessions = PostgresSamplingSessions(pool, clock)
    of_keys, of_tenants = _sample_budgets(1), _sample_budgets(TENANT_KEYS)
    samples = EngineSamples(catalog.engines, clock, of_keys=of_keys, of_tenants=of_tenants, tag=others.tag)
    training = TrainingFutures(runs, catalog.trainers, exports, sessions, clock)
    return Tinker(
        clock=clock,
        catalog=catalog,
        report_lines=LineBudget(per_second=REPORT_LINES),
        max_answer_bytes=settings.max_answer_bytes,
        runs=runs,
        samples=samples,
        other_gateways=others,
        sampling_sessions=sessions,
        checkpoints=TrainedCheckpoints(runs, catalog.trainers, catalog.registry),
        futures={"op:": training, SAMPLE_PREFIX: samples},
        tokenizers=settings.tokenizers_by_base(),
        signer=TicketSigner(secret=settings.internal.token.encode()),
        public_url=settings.public_url,
    )


def _forward_limits(what: str, long: int) -> ForwardLimits:
    short = FairGate(SHORT_REQUESTS, limit=TENANT_SHORT_REQUESTS)
    return ForwardLimits(short=short, long=TenantBudget(what=what, limit=long))


async def prune(rows: Mapping[str, Callable[[], Awaitable[None]]], clock: Clock) -> None:
    """Delete old rows of each kind until cancelled, through outages of the database."""
    async with asyncio.TaskGroup() as group:
        for kind, forget in rows.items():
            pruning = run_periodically(forget, name=f"prune {kind}", every_seconds=PRUNE_SECONDS, clock=clock)
            group.create_task(pruning)


def _open_webhooks(
    settings: GatewaySettings, pool: asyncpg.Pool, bus: Bus, clock: Clock, stack: AsyncExitStack
) -> tuple[WebhookParts, WebhookIntake, WebhookCourier]:
    allow_private, timeout_seconds = settings.webhook_allow_private, settings.webhook_timeout_seconds
    sender = HttpWebhookSender(clock, timeout_seconds=timeout_seconds, allow_private=allow_private)
    stack.push_async_callback(sender.close)
    retries = RetryPolicy(
        first_delay_seconds=settings.webhook_first_retry_seconds,
        give_up_seconds=settings.webhook_give_up_seconds,
    )
    queue, queued = PostgresWebhookQueue(pool), asyncio.Event()
    lease_seconds = LEASE_TIMEOUTS * timeout_seconds
    courier = WebhookCourier(queue, sender, clock, queued, retry=retries, lease_seconds=lease_seconds)
    parts = WebhookParts(store=PostgresWebhooks(pool), allow_private=allow_private, clock=clock)
    return parts, WebhookIntake(bus, queue, clock, queued), courier


def _sample_budgets(keys: int) -> SampleBudgets:
    samples, sequences, prompt_bytes = (
        TenantBudget(what="the queue of your samples", limit=keys * limit)
        for limit in (KEY_SAMPLES, KEY_SEQUENCES, KEY_PROMPT_BYTES)
    )
    return SampleBudgets(samples, sequences, prompt_bytes)
