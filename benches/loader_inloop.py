"""How long does a cold load hold up the engine's loop? The real engine and the real tiers, in process."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benches.adapters import Recipe, make_adapters, store_in_bulk
from benches.report import Report, make_row
from benches.serving import KV_BYTES, TINY, scratch_folder
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import RevisionRef
from mint_common.events.event import Event
from mint_common.generation import Delta, Sampling
from mint_common.ids import EngineId, PolicyId, TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.staging import DiskCache
from services.loader.adapters.vllm_engine import VllmEngine, start_engine
from services.loader.app import engine_config, tier_limits, warm_up
from services.loader.ports import LoadedAdapter, Slice
from services.loader.residency_log import EngineIdentity, ResidencyLog
from services.loader.settings import LoaderSettings
from services.loader.tiers import Tiers

SLOTS, WARM, ADDED, ROUNDS = 16, 8, 32, 6
TENANT = TenantId("bench")
TOKENS = 200
PROMPT = tuple(range(3, 35))


class MeasuredEngine:
    """The real engine; keeps what each slice of an activation reports."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.slices: list[tuple[int, Slice]] = []

    async def activate(
        self, adapter: LoadedAdapter, *, victim: LoadedAdapter | None, slice_ms: float
    ) -> Slice:
        """Activate, and note how long it held the loop up."""
        part = await self.engine.activate(adapter, victim=victim, slice_ms=slice_ms)
        self.slices.append((adapter.number, part))
        return part

    def __getattr__(self, name: str) -> Any:  # Any: everything else is the engine's own
        return getattr(self.engine, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """An engine under its tiers, and revisions to load."""

    engine: MeasuredEngine
    tiers: Tiers
    facts: BaseFacts
    revisions: Sequence[RevisionRef]


@dataclass(slots=True)
class Steps:
    """When the warm sequences got tokens, in seconds."""

    at: list[float] = field(default_factory=list)

    def between(self, began: float, ended: float) -> list[float]:
        """Return the gaps between steps, in milliseconds."""
        inside = sorted(at for at in self.at if began <= at <= ended)
        return [1000 * gap for gap in np.diff(inside).tolist() if gap > 1e-4]


def run() -> Report:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> Report:
    with scratch_folder() as folder:
        async with _rig(folder) as rig:
            quiet, busy, stalls = [], [], []
            for number in range(ROUNDS):
                before, during = await _round(rig, number)
                quiet += before
                busy += during
            for _, part in rig.engine.slices:
                stalls.append(part.stall_ms)
    per_load: dict[int, float] = {}
    for number, part in rig.engine.slices:
        per_load[number] = per_load.get(number, 0.0) + part.stall_ms
    step_ms = statistics.median(quiet)
    size_bytes = _adapter_bytes(rig.facts)
    rows = [
        make_row(
            "inloop_dense_ms",
            list(per_load.values()),
            unit="ms",
            goal=0.5,
            better="lower",
            limit=_copy_ms(size_bytes),
            how=f"engine-loop time of one cold dense load (rank 8, {size_bytes >> 10} KiB): the slices that "
            "the worker extension reports, summed; all else happens beside the loop. The limit is one copy "
            "of the same bytes",
        ),
        make_row(
            "stall_over_step",
            [stall / step_ms for stall in stalls],
            unit="ratio",
            goal=3.0,
            better="lower",
            limit=0.0,
            value=max(stalls) / step_ms,
            how=f"longest single stall while {ADDED} cold adapters arrive at once beside {WARM} generating "
            f"tenants, over the median step ({step_ms:.1f} ms) before; {ROUNDS} rounds",
        ),
        make_row(
            "longest_gap_ratio",
            [gap / step_ms for gap in busy],
            unit="ratio",
            goal=10.0,
            better="lower",
            limit=max(quiet) / step_ms,
            value=max(busy) / step_ms,
            how="longest gap between two tokens as the warm tenants see it in the same time, over the median "
            "step; the limit is the longest gap before, when nothing was loaded: the machine's own noise",
        ),
    ]

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        left, right = figure.subplots(1, 2)
        left.hist(list(per_load.values()), bins=30)
        left.set(title="engine-loop time of one cold load", xlabel="ms", ylabel="loads")
        for label, gaps in (("before", quiet), ("while adding", busy)):
            ranked = np.sort(gaps)
            right.plot(ranked, np.arange(1, len(ranked) + 1) / len(ranked), label=label)
        right.set(title="gaps between steps", xlabel="ms", ylabel="share", xscale="log")
        right.legend()

    return Report(bench="loader_inloop", rows=rows, draw=draw)


async def _round(rig: Rig, number: int) -> tuple[list[float], list[float]]:
    """Return the steps of warm sequences before and while cold adapters arrive."""
    steps, started = Steps(), asyncio.Event()
    warm = rig.revisions[:WARM]
    first = WARM + ADDED * number
    cold = rig.revisions[first : first + ADDED]
    began = time.perf_counter()
    generating = [asyncio.create_task(_generate(rig, ref, steps, started)) for ref in warm]
    await started.wait()
    await asyncio.sleep(0.5)
    arrived = time.perf_counter()
    await asyncio.gather(*(_touch(rig, ref) for ref in cold))
    ended = time.perf_counter()
    for task in generating:
        task.cancel()
    await asyncio.gather(*generating, return_exceptions=True)
    return steps.between(began, arrived), steps.between(arrived, ended)


async def _generate(rig: Rig, ref: RevisionRef, steps: Steps, started: asyncio.Event) -> None:
    """Generate at a warm adapter again and again."""
    while True:
        async with rig.tiers.hold(ref, tenant_id=TENANT, cause="bench") as adapter:
            stream = rig.engine.generate(
                request_id=f"{ref.number}-{time.monotonic_ns()}",
                prompt=PROMPT,
                sampling=Sampling(max_new_tokens=TOKENS, temperature=0.0, ignore_eos=True),
                adapter=adapter,
                tenant_id=TENANT,
            )
            with rig.tiers.generating():
                async with aclosing(stream.steps()) as parts:
                    async for step in parts:
                        steps.at += [time.perf_counter() for part in step if isinstance(part, Delta)]
                        if len(steps.at) > 8 * WARM:
                            started.set()


async def _touch(rig: Rig, ref: RevisionRef) -> None:
    """Take an adapter into a slot, as a request does."""
    async with rig.tiers.hold(ref, tenant_id=TENANT, cause="bench"):
        pass


@contextlib.asynccontextmanager
async def _rig(folder: Path) -> AsyncIterator[Rig]:
    facts = read_base_facts(TINY)
    settings = _settings(folder)
    made = make_adapters(facts, PolicyId("pol"), WARM + ADDED * ROUNDS, Recipe(), seed=0)
    revisions = store_in_bulk(folder / "blobs", made)
    real = start_engine(engine_config(settings, facts, facts.max_context))
    try:
        await warm_up(real)
        clock, engine = SystemClock(), MeasuredEngine(real)
        cache = DiskCache(
            LocalBlobs(folder / "blobs"), facts, root=folder / "cache", capacity_bytes=1 << 30, clock=clock
        )
        cache.open()
        identity = EngineIdentity(engine_id=EngineId("bench"), epoch="1", base=facts.name)
        tiers = Tiers(
            engine=engine,
            staging=cache,
            log=ResidencyLog(identity, Silence()),
            limits=tier_limits(settings),
            clock=clock,
        )
        running = asyncio.create_task(tiers.run())
        for ref in revisions[:WARM]:
            await _touch(Rig(engine=engine, tiers=tiers, facts=facts, revisions=revisions), ref)
        engine.slices.clear()
        yield Rig(engine=engine, tiers=tiers, facts=facts, revisions=revisions)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    finally:
        real.close()


class Silence:
    """Announcements that nobody hears."""

    def announce(self, event: Event, *, cause: str) -> None:
        """Say nothing."""


def _settings(folder: Path) -> LoaderSettings:
    blocks: Mapping[str, Mapping[str, object]] = {
        "nats": {"url": "nats://127.0.0.1:1"},
        "postgres": {"dsn": "postgresql://nobody@127.0.0.1:1/none"},
        "blobs": {"url": f"file://{folder}/blobs"},
        "telemetry": {},
        "peers": {"registry_url": "http://127.0.0.1:1"},
        "internal": {"token": "bench"},
        "http": {"port": 1},
    }
    return LoaderSettings.model_validate(
        {
            **blocks,
            "engine_id": "bench",
            "base_dir": TINY,
            "cache_dir": folder / "cache",
            "kv_cache_bytes": KV_BYTES,
            "slots": SLOTS,
            "host_capacity": 256,
        }
    )


def _adapter_bytes(facts: BaseFacts) -> int:
    return sum(4 * 8 * (width + height) for width, height in facts.modules.values())


def _copy_ms(size_bytes: int) -> float:
    source = np.ones(size_bytes // 4, np.float32)
    target = np.empty_like(source)
    taken = []
    for _ in range(50):
        began = time.perf_counter()
        np.copyto(target, source)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)
