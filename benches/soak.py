"""Does anything grow under a steady load? Slopes of memory, descriptors, threads, rows, files, with bounds.

All are per 1,000 operations, chats and optimizer steps. What is kept on purpose, such as a policy's row,
grows with the load: its bound says how fast it may.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from benches.report import Report, Row
from benches.soak_load import Done, Load
from benches.soak_samples import Slope, fit_slope, sample
from benches.soak_steps import StepLoad
from benches.stacks import BenchStack, open_bench_stack
from services.standalone.core.plan import SERVICES

MINUTES = 60
SAMPLES = 60
WARM_SHARE = 0.3
"""Share of the samples left out of a slope, while pools, caches and slots fill."""
OVERRIDES = {"MINT_LOADER_SLOTS": "4", "MINT_LOADER_HOST_CAPACITY": "12"}
"""Fewer than the policies that are talked to, so that adapters are evicted all the time."""
UNITS = {"memory": "MB", "descriptors": "", "threads": "", "rows": "", "files": "", "size": "MB"}
BOUNDS: Mapping[str, float] = {
    "memory": 1.0,
    "descriptors": 0.5,
    "threads": 0.2,
    "rows": 1.0,
    "files": 1.0,
    "size": 1.0,
    # Kept on purpose. If all operations were steps, 1,000 made 250 policies: each has a row, and two events.
    **dict.fromkeys(
        (
            "rows gateway.tinker_runs",
            "rows registry.exports",
            "rows registry.policies",
            "rows registry.revisions",
            "rows trainer.checkpoints",
            "rows trainer.mint_inbox",
            "rows trainer.mint_outbox",
            "rows trainer.training",
        ),
        252.5,
    ),
    "rows registry.mint_inbox": 500.0,
    "rows registry.mint_outbox": 500.0,
    "rows trainer.operations": 2525.0,  # of a policy: eight of its steps, a save and an export
    "files blobs": 1000.0,  # of a policy: its checkpoint, adapter, config and manifest
    "size blobs": 200.0,
    "files cache": 750.0,  # a loader's staged adapters, up to MINT_LOADER_DISK_BYTES
    "size cache": 60.0,
    "size nats": 5.0,  # streams, up to their bounds
    "size postgres": 10.0,
}
"""By quantity or, before that, by its kind."""
COMES_AND_GOES: Mapping[str, float] = {
    "memory": 8.0,
    "descriptors": 5.0,
    "threads": 2.0,
    "rows": 10.0,
    "files": 10.0,
    "size": 30.0,
}
"""Less growth than this in all has no bound: a pool that filled late, or a segment of Postgres."""

Series = Sequence[tuple[int, Mapping[str, float]]]
"""Operations that were done, and every quantity then."""


def run(minutes: float = MINUTES, load: str = "all") -> Report:
    """Load a stack of the tiny base with everything at once, or a trainer with steps alone, and measure."""
    os.environ["TINKER_TELEMETRY"] = "0"
    done, series = asyncio.run(_soak(60 * minutes, load))
    warm = series[int(WARM_SHARE * len(series)) :]
    operations = [count for count, _ in warm]
    slopes = {
        name: fit_slope(operations, [values[name] for _, values in warm])
        for name in warm[0][1]
        if all(name in values for _, values in warm)
    }
    span = operations[-1] - operations[0]
    rows = [
        _row(name, slope, minutes, growth=slope.per_1000 * span / 1000)
        for name, slope in slopes.items()
        if not slope.is_flat
    ]
    rows.append(_failures(done))
    flat = [name for name, slope in slopes.items() if slope.is_flat]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.counts.items()))
    return Report(
        bench="soak" if load == "all" else f"soak_{load}",
        rows=rows,
        draw=lambda figure: _draw(figure, series, slopes),
        left_out={f"{len(flat)} that stayed as they were": ", ".join(flat), "load": kinds},
    )


async def _soak(seconds: float, kind: str) -> tuple[Done, Series]:
    series: list[tuple[int, dict[str, float]]] = []
    services = ("registry", "trainer") if kind == "steps" else SERVICES
    async with open_bench_stack(services, overrides=OVERRIDES) as stack:
        began = time.monotonic()
        tables = await asyncpg.connect(stack.dsn)
        load = _load(kind, stack, end=began + seconds)
        running = asyncio.create_task(load.run())
        try:
            for number in range(1, SAMPLES + 1):
                await asyncio.sleep(max(0.0, began + seconds * number / SAMPLES - time.monotonic()))
                series.append((load.done.operations, await sample(stack, tables)))
            await running
        finally:
            await tables.close()
    return load.done, series


def _load(kind: str, stack: BenchStack, *, end: float) -> Load | StepLoad:
    if kind == "steps":
        return StepLoad(stack=stack, end=end)
    return Load(url=stack.gateway_url, api_key=stack.api_key, end=end)


def _row(name: str, slope: Slope, minutes: float, *, growth: float) -> Row:
    kind = name.partition(" ")[0]
    return Row(
        name=name,
        value=round(slope.per_1000, 4),
        unit=f"{UNITS[kind]} / 1,000".strip(),
        goal=BOUNDS.get(name, BOUNDS[kind]) if growth > COMES_AND_GOES[kind] else None,
        better="lower",
        n=slope.n,
        min=round(slope.low, 3),
        median=round(slope.median, 3),
        max=round(slope.high, 3),
        limit=None,
        how=f"least squares over {minutes:g} minutes less {WARM_SHARE:.0%} at first; min to max: values",
        interval=slope.interval,
    )


def _failures(done: Done) -> Row:
    count = done.counts["failures"]
    return Row(
        name="failures",
        value=count,
        unit="",
        goal=0,
        better="lower",
        n=done.operations + count,
        min=0,
        median=0,
        max=count,
        limit=0,
        how="; ".join(done.failures) or "no request failed",
    )


def _draw(figure: Any, series: Series, slopes: Mapping[str, Slope]) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    for name in (each for each in slopes if each.startswith("memory ")):
        first = series[0][1][name]
        axes.plot(
            [count for count, _ in series], [values[name] - first for _, values in series], label=name[7:]
        )
    axes.set_xlabel("operations")
    axes.set_ylabel("private memory, MB more than at first")
    axes.legend(fontsize="small")
