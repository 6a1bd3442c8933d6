"""Is the catalog as fast at a million policies as at ten thousand? Names, pages, aliases, memory.

Everything is real: Postgres, NATS, files, and the registry as a process of its own. A tenth of the policies
get real adapters (tiny base, rank 1), which the bench checks like exports and stores by the batch; the others
are rows alone.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benches.bases import TINY
from benches.catalog_rows import NOW, Size, add_adapters, add_policies, add_rows, name_of, tenant_id
from benches.report import Report, Row, make_row, percentile
from benches.stacks import open_bench_stack
from mint_common.adapters_format import BaseFacts, check_folder, read_base_facts, stage_adapter
from mint_common.authority import Authority, Caller
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.catalog import FULL_SCOPES, TenantRecord
from mint_common.claims import Claim
from mint_common.client.registry import RegistryClient
from mint_common.errors import MintError
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.core.resolutions import ResolutionCache
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.app import open_quick_pool
from services.registry.core.names import parse_model
from services.standalone.adapters.nats import nats_url

POLICIES = 1_000_000
RESOLVES, ASKS, HITS, PAGES, MOVES, STALE = 5000, 1000, 5000, 200, 300, 200
AUDITED = 256
NOISE_MS = 0.02
LEASE_SECONDS = 60.0
NEWS_PASS_SECONDS = 0.03
NEWS_SECONDS = 10.0
"""Beyond this, and long before a lease ends, a move's news is lost: the bench fails and says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A running registry, and every way into its catalog."""

    dsn: str
    pool: asyncpg.Pool
    catalog: PostgresCatalog
    client: RegistryClient
    bus: NatsBus
    blobs: LocalBlobs
    facts: BaseFacts
    registry: psutil.Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Milliseconds of what was done at one size of the catalog."""

    resolve: list[float]
    cold: list[float]
    cached: list[float]
    page: list[float]
    move: list[float]
    stale: list[float]


def run(policies: int = POLICIES) -> Report:
    """Measure a catalog of that many policies; ten thousand at least."""
    return asyncio.run(_run(Size(policies=policies)))


async def _run(size: Size) -> Report:
    async with _rig() as rig:
        await _add_tenants(rig, size)
        async with _loading(rig) as load:
            await add_policies(load, size, rig.facts, range(size.early))
            await add_adapters(load, rig.blobs, size, rig.facts, range(size.early))
            await add_rows(load, range(size.early // 10), number=2)
        small = await _measure(rig, size, range(size.early))

        async with _loading(rig) as load:
            await add_policies(load, size, rig.facts, range(size.early, size.policies))
            await add_adapters(load, rig.blobs, size, rig.facts, range(size.early, size.real))
            await add_rows(load, range(size.real, size.policies), number=1)
            await add_rows(load, range(size.early // 10, size.twice), number=2)
        large = await _measure(rig, size, range(size.policies))
        bad = await _audit(rig)
        rss_mb = rig.registry.memory_info().rss / 1e6
    return Report(
        bench="catalog",
        rows=[*_latencies(size, large), *_totals(size, _growth(small, large), bad, rss_mb)],
        draw=_drawing(small, large),
    )


@asynccontextmanager
async def _rig() -> AsyncIterator[Rig]:
    async with (
        open_bench_stack(("registry", "gateway")) as stack,
        stack.http("registry") as http,
    ):
        folder = stack.folder
        pool = await open_quick_pool(stack.dsn)
        bus = await connect_nats(nats_url(folder.root / "nats", stack.port("nats")), name="bench")
        facts = read_base_facts(TINY)
        await RegistryClient(http).put_base(facts)
        yield Rig(
            dsn=stack.dsn,
            pool=pool,
            catalog=PostgresCatalog(pool, PostgresLedger(pool, SystemClock())),
            client=RegistryClient(http),
            bus=bus,
            blobs=LocalBlobs(folder.blobs),
            facts=facts,
            registry=psutil.Process(stack.pids("registry")[0]),
        )
        await bus.close()
        await pool.close()


async def _add_tenants(rig: Rig, size: Size) -> None:
    accounts = PostgresAccounts(rig.pool)
    for index in range(size.tenants):
        tenant = tenant_id(index)
        await accounts.add_tenant(TenantRecord(tenant_id=tenant, name=tenant, created_at=NOW))


@asynccontextmanager
async def _loading(rig: Rig) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(rig.dsn, server_settings={"search_path": "registry"})
    try:
        yield connection
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def _settle(rig: Rig) -> None:
    """Let what the load left to be written reach the disk: the catalog is measured, not the load's tail."""
    await rig.pool.execute("CHECKPOINT", timeout=600)
    await asyncio.to_thread(os.sync)


async def _measure(rig: Rig, size: Size, indices: range) -> Times:
    """Measure with the policies of these indices; the first tenth of them has a second revision."""
    await _settle(rig)
    rng = random.Random(0)

    def pick(among: range = indices) -> int:
        return rng.randrange(among.start, among.stop)

    async def resolve(index: int) -> None:
        model = name_of(index) + ("@1" if index % 3 == 0 else "")
        await rig.catalog.resolve(size.tenant(index), parse_model(model))

    never = _resolver(rig, capacity=1, lease_seconds=0.0)

    async def ask(index: int) -> None:
        await never.resolve(size.tenant(index), name_of(index))

    async def page(index: int) -> None:
        found = await rig.catalog.policies(tenant_id(0), limit=100, after=name_of(index))
        assert len(found) == 100

    async def move(index: int) -> None:
        tenant, number = size.tenant(index), 1 + rng.randrange(2)
        await rig.client.move_alias(_caller(tenant), name_of(index), "prod", revision=number)

    twice = range(len(indices) // 10)
    await _timed(resolve, [pick() for _ in range(RESOLVES // 10)])
    return Times(
        resolve=await _timed(resolve, [pick() for _ in range(RESOLVES)]),
        cold=await _timed(ask, [pick() for _ in range(ASKS)]),
        cached=await _cached(rig, size, [pick() for _ in range(HITS // 10)]),
        page=await _timed(page, [pick(range(len(indices) - 201)) for _ in range(PAGES)]),
        move=await _timed(move, [pick(twice) for _ in range(MOVES)]),
        stale=await _stale(rig, size, [pick(twice) for _ in range(STALE)]),
    )


async def _timed(act: Callable[[int], Awaitable[None]], indices: Sequence[int]) -> list[float]:
    times = []
    for index in indices:
        started = time.perf_counter()
        await act(index)
        times.append((time.perf_counter() - started) * 1000)
    return times


async def _cached(rig: Rig, size: Size, indices: Sequence[int]) -> list[float]:
    resolver = _resolver(rig)

    async def resolve(index: int) -> None:
        await resolver.resolve(size.tenant(index), name_of(index))

    await _timed(resolve, indices)
    return await _timed(resolve, [*indices] * 10)


async def _stale(rig: Rig, size: Size, indices: Sequence[int]) -> list[float]:
    """Return how long after a move's answer the old meaning is still given; 0 when it never is."""
    resolver, times = _resolver(rig), []
    follower = asyncio.ensure_future(resolver.follow(rig.bus))
    try:
        for index in indices:
            tenant, model = size.tenant(index), f"{name_of(index)}@stale"
            caller = _caller(tenant)
            await rig.client.move_alias(caller, name_of(index), "stale", revision=1)
            await asyncio.sleep(NEWS_PASS_SECONDS)  # else it drops what is remembered next, and none is stale
            await _until(resolver, tenant, model, number=1)
            await rig.client.move_alias(caller, name_of(index), "stale", revision=2)
            times.append(await _until(resolver, tenant, model, number=2))
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
    return times


def _caller(tenant: TenantId) -> Caller:
    authority = Authority(tenant_id=tenant, key_id="bench", scopes=frozenset(FULL_SCOPES))
    return Caller(authority=authority, name="bench")


async def _until(resolver: CachedResolver, tenant: TenantId, model: str, *, number: int) -> float:
    """Ask until a name means this revision; return how long it meant another one, in milliseconds."""
    started = last = time.perf_counter()
    while (found := (await resolver.resolve(tenant, model)).revision) is None or found.number != number:
        last = time.perf_counter()
        assert last - started < NEWS_SECONDS, (
            f"{model} still means {found}, {number} was answered: lost news?"
        )
        await asyncio.sleep(0)
    return (last - started) * 1000


def _resolver(rig: Rig, *, capacity: int = 100_000, lease_seconds: float = LEASE_SECONDS) -> CachedResolver:
    """Return a gateway's resolver to which every revision is ready, so that no name waits for a load."""
    cache = ResolutionCache(
        capacity=capacity, lease_seconds=lease_seconds, switch_seconds=20.0, is_ready=lambda _: True
    )
    return CachedResolver(rig.client, cache, SystemClock())


async def _audit(rig: Rig) -> list[float]:
    """Return 0 or 1 (bad) for adapters out of every shard, read back and checked in full."""
    rows = await rig.pool.fetch(_SAMPLE, AUDITED)
    found = []
    with tempfile.TemporaryDirectory(prefix="mint-audit-") as scratch:
        for number, row in enumerate(rows):
            folder = Path(scratch) / str(number)
            claim = Claim(
                uri=row["manifest_uri"], sha256=row["manifest_sha256"], size_bytes=row["manifest_size_bytes"]
            )
            try:
                manifest = await stage_adapter(rig.blobs, claim, folder)
                check_folder(rig.facts, manifest, folder)
                found.append(float(manifest.digest != row["digest"]))
            except MintError:
                found.append(1.0)
    return found


_SAMPLE = """
    SELECT * FROM (
        SELECT DISTINCT ON (substr(digest, 8, 2)) * FROM revisions WHERE manifest_uri LIKE 'revisions/%'
        ORDER BY substr(digest, 8, 2), random()
    ) one_of_each_shard LIMIT $1
"""


def _growth(small: Times, large: Times) -> dict[str, float]:
    """Return the ratio of every median; below the clock's noise nothing grows."""
    return {
        part: _median(getattr(large, part)) / max(_median(getattr(small, part)), NOISE_MS)
        for part in ("resolve", "cold", "page", "move")
    }


def _latencies(size: Size, large: Times) -> list[Row]:
    what = f"{size.policies} policies, {size.tenants} tenants, {size.policies + size.twice} revisions"
    p99 = percentile(large.resolve, 0.99)
    return [
        _ms("resolve_p50_ms", large.resolve, 0.3, f"a name by the registry's store at {what}"),
        _ms("resolve_p99_ms", large.resolve, 3.0, "the same, the slowest of 100", value=p99),
        _ms("gateway_resolve_cold_ms", large.cold, 2.0, "a gateway asks the registry over HTTP"),
        _ms("gateway_resolve_cached_ms", large.cached, 0.1, "a gateway remembers"),
        _ms(
            "stale_read_ms",
            large.stale,
            50.0,
            "p99 of how long after a move's answer another gateway gives the old revision",
            value=percentile(large.stale, 0.99),
        ),
        _ms("alias_move_p50_ms", large.move, 5.0, "a durable move over the registry's HTTP"),
        _ms("list_page_p50_ms", large.page, 5.0, "100 policies by the store, anywhere in half of all"),
    ]


def _totals(size: Size, growth: dict[str, float], bad: list[float], rss_mb: float) -> list[Row]:
    return [
        make_row(
            "growth_10k_to_1m",
            list(growth.values()),
            value=max(growth.values()),
            unit="ratio",
            goal=2.0,
            better="lower",
            how=f"worst ratio of a median at {size.policies} to that at {size.early} policies: "
            + ", ".join(f"{part} {ratio:.2f}" for part, ratio in growth.items()),
        ),
        make_row(
            "registry_rss_mb", [rss_mb], unit="MB", goal=300, better="lower", how="resident, after all of it"
        ),
        make_row(
            "audit_bad",
            bad,
            value=sum(bad),
            unit="adapters",
            goal=0,
            better="lower",
            how="of a sample over all shards, read back and checked against their digests",
        ),
    ]


def _ms(name: str, samples: list[float], goal: float, how: str, *, value: float | None = None) -> Row:
    return make_row(name, samples, value=value, unit="ms", goal=goal, better="lower", how=how)


def _median(samples: list[float]) -> float:
    return percentile(samples, 0.5)


def _drawing(small: Times, large: Times) -> Callable[[Any], None]:  # Any: matplotlib is untyped
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for part in ("resolve", "cold", "page", "move"):
            for times, style in ((small, "--"), (large, "-")):
                samples = sorted(getattr(times, part))
                shares = [(place + 1) / len(samples) for place in range(len(samples))]
                axes.plot(samples, shares, style, label=f"{part}, {'small' if times is small else 'full'}")
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds")
        axes.set_ylabel("share of requests")
        axes.legend()

    return draw
