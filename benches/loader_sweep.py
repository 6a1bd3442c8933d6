"""A catalog of 100,000 real adapters on one engine: no errors, latency by tier, and nothing that grows."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benches.adapters import Recipe
from benches.load import Answered, OpenAI, open_openai
from benches.report import Report, Row, make_row, percentile
from benches.serving import Serving, open_serving
from mint_common.claims import RevisionRef

CATALOG = 100_000
REQUESTS, AT_ONCE = 1500, 8
TINY = Recipe(rank=1, targets=("q_proj", "v_proj"))
SETTINGS = {
    "MINT_LOADER_SLOTS": "16",
    "MINT_LOADER_HOST_CAPACITY": "256",
    # Small enough to be full long before the end: what grows afterwards would be a leak.
    "MINT_LOADER_DISK_BYTES": str(4 << 20),
}
TIERS = ("slot", "host", "disk", "remote")
PARTS = ("gateway", "registry", "loader-tiny")
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, and the tier in which its adapter was found."""

    traffic: str
    tier: str
    answer: Answered
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of the serving processes after so many requests."""

    requests: int
    rss_bytes: int


def run() -> Report:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> Report:
    async with open_serving(SETTINGS) as serving:
        began = time.perf_counter()
        revisions = await serving.publish("pool", CATALOG, TINY)
        built_seconds = time.perf_counter() - began
        async with open_openai(serving.gateway_url, api_key=serving.api_key) as ours:
            asked, memory = await _sweep(serving, ours, revisions)
    half = memory[len(memory) // 2 :]
    quarter = max(1, len(half) // 4)
    start, end = (sum(m.rss_bytes for m in part) / quarter for part in (half[:quarter], half[-quarter:]))
    wrong = [one for one in asked if not one.is_right]
    distinct = len({one.answer.model for one in asked})
    rows = [
        make_row(
            "sweep_errors",
            [float(len(wrong))],
            unit="errors",
            goal=0.0,
            better="lower",
            limit=0.0,
            how=f"of {len(asked)} requests, {AT_ONCE} in flight, half Zipf 1.0 and half uniform, to "
            f"{distinct} of {CATALOG:,} real rank-1 adapters (built in {built_seconds:.0f} s): answers that "
            "are not 200 or that another revision gave",
        ),
        make_row(
            "sweep_rss_drift",
            [(end - start) / start],
            unit="ratio",
            goal=0.05,
            better="lower",
            limit=0.0,
            how=f"resident memory of {', '.join(PARTS)} and the engine: the last eighth of all samples over "
            f"the first eighth of the second half; {start / 2**20:.0f} MiB then",
        ),
    ]
    rows += [
        row
        for traffic in ("zipf", "uniform")
        for tier in TIERS
        for row in _latency_rows(traffic, tier, [one for one in asked if one.traffic == traffic])
    ]
    return Report(bench="loader_sweep", rows=rows, draw=_drawing(asked, memory))


async def _sweep(
    serving: Serving, ours: OpenAI, revisions: Sequence[RevisionRef]
) -> tuple[list[Asked], list[Memory]]:
    asked: list[Asked] = []
    memory: list[Memory] = []
    rng = random.Random(0)
    ranked = list(range(CATALOG))
    rng.shuffle(ranked)
    weights = [1 / (rank + 1) for rank in range(CATALOG)]
    zipf = [ranked[rank] for rank in rng.choices(range(CATALOG), weights, k=REQUESTS)]
    uniform = [rng.randrange(CATALOG) for _ in range(REQUESTS)]
    # Interleaved, so that the memory of the second half has seen both.
    order = iter([each for pair in zip(zipf, uniform, strict=True) for each in enumerate(pair)])

    async def worker() -> None:
        for which, number in order:
            ref = revisions[number]
            status = await serving.engine.adapter(ref.digest)
            tier: str = status.tier
            if tier == "stored":
                tier = "disk" if status.size_bytes else "remote"
            answer = await ours.ask(f"pool@{ref.number}", tokens=1)
            right = answer.status == 200 and answer.revision == ref.digest
            traffic = "uniform" if which else "zipf"
            asked.append(Asked(traffic=traffic, tier=tier, answer=answer, is_right=right))

    async def watch() -> None:
        while True:
            memory.append(Memory(requests=len(asked), rss_bytes=serving.stack.rss_bytes(*PARTS)))
            await asyncio.sleep(_SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return asked, memory


def _latency_rows(traffic: str, tier: str, asked: Sequence[Asked]) -> list[Row]:
    seconds = [1000 * one.answer.seconds for one in asked if one.tier == tier]
    if len(seconds) < 5:
        return []
    share = len(seconds) / len(asked)
    return [
        make_row(
            f"sweep_{traffic}_{tier}_p{percent}_ms",
            seconds,
            unit="ms",
            goal=goal,
            better="lower",
            value=percentile(seconds, percent / 100),
            how=f"{traffic} requests of one token whose adapter was found in tier {tier}, {share:.0%}",
        )
        for percent, goal in ((50, 100.0), (95, 500.0))
    ]


def _drawing(asked: Sequence[Asked], memory: Sequence[Memory]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        left, right = figure.subplots(1, 2)
        by_tier: dict[str, list[float]] = defaultdict(list)
        for one in asked:
            by_tier[one.tier].append(1000 * one.answer.seconds)
        tiers = [tier for tier in TIERS if by_tier[tier]]
        labels = [f"{tier}\n{len(by_tier[tier]) / len(asked):.0%}" for tier in tiers]
        left.boxplot([by_tier[tier] for tier in tiers], tick_labels=labels, whis=(5, 95), showfliers=False)
        left.set(title=f"one token, by tier; {CATALOG:,} adapters", ylabel="ms", ylim=(0, None))
        right.plot([m.requests for m in memory], [m.rss_bytes / 2**20 for m in memory])
        right.set(title="memory of all serving processes", xlabel="requests", ylabel="MiB", ylim=(0, None))

    return draw
