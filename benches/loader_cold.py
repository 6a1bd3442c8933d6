"""Many cold adapters at once: is the last one ready as soon as if each had been loaded alone, or sooner?

And many who want the same one: is it fetched and laid out once?
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benches.load import in_flight, open_openai
from benches.metrics import grown, read_metrics
from benches.report import Report, Row, make_row
from benches.serving import Serving, open_serving
from mint_common.claims import RevisionRef

DISTINCT, ROUNDS, ALONE = 16, 6, 8
MISSES = 1000
SETTINGS = {
    "MINT_LOADER_SLOTS": str(DISTINCT),
    "MINT_LOADER_HOST_CAPACITY": "256",
    "MINT_LOADER_MAX_REQUESTS": str(2 * MISSES),
}
_FETCHES = 'mint_loader_load_seconds_count{stage="fetch"}'
_LAYOUTS = 'mint_loader_load_seconds_count{stage="layout"}'


@dataclass(slots=True)
class Staircase:
    """Seconds of each round: the median bare load, and when each of a burst was ready."""

    alone: list[float] = field(default_factory=list)
    curves: list[list[float]] = field(default_factory=list)


def run(only: str | None = None) -> Report:
    """Measure; the misses alone take seconds."""
    return asyncio.run(_run(rounds=0 if only in {"misses_fetches", "misses_add_lora"} else ROUNDS))


async def _run(rounds: int) -> Report:
    async with open_serving(SETTINGS) as serving:
        per_round = ALONE + DISTINCT
        revisions = await serving.publish("pool", 1 + per_round * (rounds + 1))
        stairs = await _climb(serving, revisions, rounds)
        fetches, layouts = await _misses(serving, revisions[-1])
    rows = [*(_stair_rows(stairs) if rounds else []), *_miss_rows(fetches, layouts)]

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        axes = figure.subplots()
        for curve in stairs.curves:
            axes.plot(range(1, DISTINCT + 1), [1000 * each for each in curve], color="tab:blue", alpha=0.5)
        bare = 1000 * statistics.median(stairs.alone or [0.0])
        axes.plot([1, DISTINCT], [bare, DISTINCT * bare], color="grey", linestyle=":", label="one by one")
        axes.set(title="cold adapters asked for at once", xlabel="how many are ready", ylabel="ms")
        axes.legend()

    return Report(bench="loader_cold", rows=rows, draw=draw)


async def _climb(serving: Serving, revisions: Sequence[RevisionRef], rounds: int) -> Staircase:
    stairs, per_round = Staircase(), ALONE + DISTINCT
    for number in range(rounds + 1):
        batch = revisions[number * per_round : (number + 1) * per_round]
        single = [await _ready(serving, ref) for ref in batch[:ALONE]]
        await _clear(serving)
        together = await _together(serving, batch[ALONE:])
        await _clear(serving)
        if number:  # the first round warms imports and connections
            stairs.alone.append(statistics.median(single))
            stairs.curves.append(together)
    return stairs


def _stair_rows(stairs: Staircase) -> list[Row]:
    ratios = [curve[-1] / (DISTINCT * bare) for curve, bare in zip(stairs.curves, stairs.alone, strict=True)]
    return [
        make_row(
            "staircase_ratio",
            ratios,
            unit="ratio",
            goal=1.0,
            better="lower",
            limit=1 / DISTINCT,
            how=f"{DISTINCT} distinct cold adapters asked for at once: when the last is ready, over "
            f"{DISTINCT} x the median of {ALONE} loaded one by one in the same round; {ROUNDS} rounds. "
            "Fetch, checks and layout of one overlap with those of another; all at once would be the limit",
        ),
        make_row(
            "cold_load_ms",
            [1000 * each for each in stairs.alone],
            unit="ms",
            goal=100.0,
            better="lower",
            how="one cold adapter alone: fetch from the blob store, checks, layout, slot, over HTTP",
        ),
    ]


def _miss_rows(fetches: float, layouts: float) -> list[Row]:
    return [
        make_row(
            "misses_fetches",
            [fetches],
            unit="fetches",
            goal=1.0,
            better="lower",
            limit=1.0,
            how=f"{MISSES} requests at once to one cold revision through the gateway: fetches of the loader",
        ),
        make_row(
            "misses_add_lora",
            [layouts],
            unit="loads",
            goal=1.0,
            better="lower",
            limit=1.0,
            how="of the same requests: adapters laid out in the engine",
        ),
    ]


async def _ready(serving: Serving, ref: RevisionRef) -> float:
    began = time.perf_counter()
    await serving.engine.prewarm(ref, tenant_id=serving.tenant_id)
    return time.perf_counter() - began


async def _together(serving: Serving, batch: Sequence[RevisionRef]) -> list[float]:
    """Return when the first, the second, ... was ready."""
    return sorted(await asyncio.gather(*(_ready(serving, ref) for ref in batch)))


async def _clear(serving: Serving) -> None:
    """Evict everything, so that slots are empty."""
    for status in await serving.engine.adapters(limit=512):
        if status.tier != "stored":
            await serving.engine.change(status.digest, "evict", tenant_id=serving.tenant_id)


async def _misses(serving: Serving, ref: RevisionRef) -> tuple[float, float]:
    async with (
        aiohttp.ClientSession() as http,
        open_openai(serving.gateway_url, api_key=serving.api_key) as ours,
    ):
        before = await read_metrics(http, serving.loader_url)
        answers = await in_flight(ours.ask, [f"pool@{ref.number}"] * MISSES, at_once=MISSES)
        after = await read_metrics(http, serving.loader_url)
    wrong = [answer for answer in answers if answer.status != 200 or answer.revision != ref.digest]
    assert not wrong, f"{len(wrong)} of {MISSES} answers are wrong: {wrong[:3]}"
    return grown(before, after, _FETCHES), grown(before, after, _LAYOUTS)
