"""How long does a cold load hold the engine's loop up? Its slices, and the longest gap while 32 arrive."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

from benches.adapters import Recipe, make_adapters, write_folders
from benches.report import Report, make_row
from benches.serving import TINY, scratch_folder
from mint_common.adapters_format import read_base_facts
from mint_common.generation import Sampling
from mint_common.ids import PolicyId, TenantId, sha256_digest
from services.loader.adapters.vllm_engine import EngineConfig, VllmEngine, start_engine
from services.loader.ports import LoadedAdapter

COLD, BURST, SLOTS, SLICE_MS = 100, 32, 40, 2.0
WARM_TOKENS = 240


def run() -> Report:
    """Measure."""
    with scratch_folder() as folder:
        facts = read_base_facts(TINY)
        folders = write_folders(
            folder, make_adapters(facts, PolicyId("bench"), COLD + BURST, Recipe(rank=8), seed=1)
        )
        config = EngineConfig(
            base_dir=TINY,
            facts=facts,
            max_context=facts.max_context,
            slots=SLOTS,
            host_capacity=COLD + BURST,
            max_sequences=16,
            kv_cache_bytes=64 << 20,
            max_logprobs=1,
            threads=1,
        )
        return asyncio.run(_run(config, folders))


async def _run(config: EngineConfig, folders: Sequence[Path]) -> Report:
    engine = start_engine(config)
    try:
        return await _measure(engine, folders)
    finally:
        engine.close()


async def _measure(engine: VllmEngine, folders: Sequence[Path]) -> Report:
    adapters = [
        LoadedAdapter(digest=sha256_digest(str(n).encode()), number=n, folder=folder)
        for n, folder in enumerate(folders, 1)
    ]
    await _gaps(engine, 50)
    in_loop, whole = [], []
    for adapter in adapters[:COLD]:
        began = time.perf_counter()
        await engine.stage(adapter)
        part = await engine.activate(adapter, victim=None, slice_ms=SLICE_MS)
        whole.append((time.perf_counter() - began) * 1e3)
        in_loop.append(part.stall_ms)
        await engine.unload(adapter.number)
    quiet = await _gaps(engine, WARM_TOKENS)
    warm = asyncio.create_task(_gaps(engine, WARM_TOKENS))
    await asyncio.sleep(0.05)
    await _burst(engine, adapters[COLD:])
    during = await warm
    step = statistics.median(quiet)
    rows = [
        make_row(
            "inloop_dense_ms",
            in_loop,
            unit="ms",
            goal=0.5,
            better="lower",
            how=f"engine-loop time of {COLD} cold dense loads, rank 8: the copy into a slot",
        ),
        make_row(
            "stall_over_step",
            [gap / step for gap in during],
            value=max(during) / step,
            unit="x",
            goal=3.0,
            better="lower",
            limit=max(quiet) / step,
            how=f"longest gap between tokens while {BURST} cold loads arrive over the median in quiet; "
            "limit: the longest in quiet",
        ),
        make_row(
            "cold_load_ms",
            whole,
            unit="ms",
            goal=10.0,
            better="lower",
            how="from the local files to a slot of an engine at rest",
        ),
    ]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot(quiet, label="quiet")
        axes.plot(during, label=f"{BURST} cold loads")
        axes.set_xlabel("token")
        axes.set_ylabel("ms to the next token")
        axes.legend()

    return Report(bench="loader_inloop", rows=rows, draw=draw)


async def _burst(engine: VllmEngine, adapters: Sequence[LoadedAdapter]) -> None:
    """Stage all at once, two at a time as the loader does, and activate one after the other."""
    turns = asyncio.Semaphore(2)
    copying = asyncio.Lock()

    async def load(adapter: LoadedAdapter) -> None:
        async with turns:
            await engine.stage(adapter)
        async with copying:
            await engine.activate(adapter, victim=None, slice_ms=SLICE_MS)

    await asyncio.gather(*(load(adapter) for adapter in adapters))


async def _gaps(engine: VllmEngine, tokens: int) -> list[float]:
    """Return the milliseconds between the tokens of one request."""
    stream = engine.generate(
        request_id=f"warm-{time.monotonic_ns()}",
        prompt=(1, 2, 3),
        sampling=Sampling(max_new_tokens=tokens, temperature=0.0, ignore_eos=True),
        adapter=None,
        tenant_id=TenantId("bench"),
    )
    times = []
    async with aclosing(stream.steps()) as steps:
        async for _ in steps:
            times.append(time.perf_counter())  # noqa: PERF401  # a time is taken when its step comes
    return [(after - before) * 1e3 for before, after in pairwise(times)]
