"""How long the engine works on for a client that has gone, through gateway and loader.

A client closes its socket in the middle of a stream. vLLM's scheduler tells after each step how many
requests run, and other streams keep it stepping: the time ends when that number, asked for again and again,
has fallen.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from benches.bare_vllm import EngineSize
from benches.load import PROMPT
from benches.metrics import read_metrics
from benches.report import Report, Row, make_row, percentile
from benches.serving import Serving, open_serving

SIZE = EngineSize(slots=8, host=16)
TRIALS = 60
OTHERS = {"abort_ms": 1, "abort_ms_busy": 31}
"""The streams that run beside, by row."""
TOKENS, READ = 240, 5
_RUNNING = "vllm:num_requests_running{"


def run(only: str | None = None) -> Report:
    """Measure both rows, or one."""
    samples = asyncio.run(_run([name for name in OTHERS if only in {None, name}]))
    return Report(
        bench="loader_abort", rows=[_row(*each) for each in samples.items()], draw=_drawing(samples)
    )


async def _run(names: list[str]) -> dict[str, list[float]]:
    async with open_serving(SIZE.overrides) as serving:
        await serving.publish("pool", 1)
        headers = {"authorization": f"Bearer {serving.api_key}"}
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            for name in names:  # the first of each fills caches
                await _trial(http, serving, OTHERS[name])
            return {
                name: [1000 * await _trial(http, serving, OTHERS[name]) for _ in range(TRIALS)]
                for name in names
            }


async def _trial(http: aiohttp.ClientSession, serving: Serving, others: int) -> float:
    async with asyncio.timeout(300):
        while (seconds := await _try(http, serving, others)) is None:
            pass
    return seconds


async def _try(http: aiohttp.ClientSession, serving: Serving, others: int) -> float | None:
    """Return how long an abort took; None if streams ended before all of them ran at once."""
    async with AsyncExitStack() as stack:
        begun = await asyncio.gather(*(_begin(http, serving) for _ in range(others + 1)))
        for answer in begun:
            await stack.enter_async_context(answer)
        leaving = begun[-1]
        for _ in range(READ):
            await leaving.content.readany()
        while (running := await _running(http, serving)) != others + 1:
            if running <= others:
                return None
        began = time.perf_counter()
        leaving.close()
        while await _running(http, serving) > others:
            pass
        return time.perf_counter() - began


async def _begin(http: aiohttp.ClientSession, serving: Serving) -> aiohttp.ClientResponse:
    """Begin a stream; return it when its first bytes have come."""
    body = {"model": "pool@1", "prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    answer = await http.post(f"{serving.gateway_url}/v1/completions", json=body)
    assert answer.status == 200, await answer.text()
    await answer.content.readany()
    return answer


async def _running(http: aiohttp.ClientSession, serving: Serving) -> float:
    metrics = await read_metrics(http, serving.loader_url)
    return sum(value for name, value in metrics.items() if name.startswith(_RUNNING))


def _row(name: str, samples: list[float]) -> Row:
    others = OTHERS[name]
    return make_row(
        name,
        samples,
        unit="ms",
        goal=100.0,
        better="lower",
        value=percentile(samples, 0.95),
        how=f"p95 of {len(samples)}: from the close of a client's socket, {READ} reads into a stream of "
        f"{TOKENS} tokens at a warm adapter, until vLLM's own count of running requests is one less, "
        f"{others} other streams running; the times in between two looks at the count, a step of the engine "
        "and the load of the machine are in it",
    )


def _drawing(samples: Mapping[str, list[float]]) -> Any:  # Any: matplotlib is untyped
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.boxplot(list(samples.values()), tick_labels=[f"{OTHERS[name]} others" for name in samples])
        axes.set(title="from the client's close to the request's end, ms", ylim=(0, None))

    return draw
