"""What does one tenant's flood cost another? B's one-token requests while A floods in every way that we know.

Both go through the gateway of one stack with keys of their own. A floods from a process of its own; B asks
one by one. Every way is measured with a quiet time right before it, so that both meet the same machine.
"""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from benches.bases import TINY
from benches.engines import base_engine, engine_config, idle_builder
from benches.fair_share_floods import BASE, FLOODS, Target, run_flood
from benches.load import open_openai
from benches.report import Report, Row, make_row, percentile
from benches.serving import Serving, open_serving
from mint_common.adapters_format import read_base_facts
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig, engine_arguments

ASKED = 100
PAUSE_SECONDS, SETTLE_SECONDS, CALM_SECONDS = 0.02, 3.0, 300.0
BEGIN_SECONDS = 60.0
"""A flood that has not begun by then is refused."""
ROUNDS, COMPLETIONS, TOKENS = 8, 64, 64
REQUESTS = 3


def run(only: str | None = None) -> Report:
    """Measure all, or what one row needs."""
    rows: list[Row] = []
    waits: dict[str, tuple[list[float], list[float]]] = {}
    if only in {None, "fair_share_p95_ratio"}:
        waits = asyncio.run(_measure_waits())
        rows += _wait_rows(waits)
    if only in {None, "alone_throughput_ratio"}:
        rows.append(_alone_row(asyncio.run(_measure_alone())))
    return Report(bench="fair_share", rows=rows, draw=lambda figure: _draw(figure, waits))


async def _measure_waits() -> dict[str, tuple[list[float], list[float]]]:
    """Return B's waits in seconds by the way of A's flood: quiet, and in it."""
    waits = {}
    async with open_serving({}) as serving:
        flooder, (_, key) = await _tenant(serving, "flooder"), await _tenant(serving, "other")
        await _ask(serving, key, ASKED)
        for name in FLOODS:
            quiet = await _ask(serving, key, ASKED)
            async with _flooding(name, serving, *flooder):
                flooded = await _ask(serving, key, ASKED)
            waits[name] = quiet, flooded
            print(f"{name}: {_p95_ms(quiet):.1f} ms quiet, {_p95_ms(flooded):.1f} ms flooded", flush=True)
            await _calm(serving)
    return waits


async def _tenant(serving: Serving, name: str) -> tuple[TenantId, str]:
    """Make a tenant; return it and a key of it."""
    headers = {"authorization": f"Bearer {serving.api_key}"}
    url = f"{serving.gateway_url}/mint/v1/tenants"
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:
        async with http.post(url, json={"name": name}) as answer:
            tenant_id = (await answer.json())["tenant_id"]
        body = {"name": name, "scopes": ["infer", "read"]}
        async with http.post(f"{url}/{tenant_id}/keys", json=body) as answer:
            return TenantId(tenant_id), (await answer.json())["key"]


async def _ask(serving: Serving, key: str, count: int) -> list[float]:
    """Ask for one token so many times, one by one; return what each took."""
    seconds = []
    async with open_openai(serving.gateway_url, api_key=key) as server:
        for _ in range(count):
            answer = await server.ask(BASE)
            assert answer.status == 200, f"B was answered with {answer.status}"
            seconds.append(answer.seconds)
            await asyncio.sleep(PAUSE_SECONDS)
    return seconds


@contextlib.asynccontextmanager
async def _flooding(name: str, serving: Serving, tenant_id: TenantId, key: str) -> AsyncIterator[None]:
    target = Target(
        gateway_url=serving.gateway_url,
        loader_url=serving.loader_url,
        internal_token=serving.stack.folder.secrets().internal_token,
        api_key=key,
        tenant_id=tenant_id,
    )
    flood = multiprocessing.get_context("spawn").Process(target=run_flood, args=(name, target), daemon=True)
    flood.start()
    try:
        async with asyncio.timeout(BEGIN_SECONDS):
            while (await serving.engine.load()).requests < 2:  # noqa: ASYNC110  (it is another process's)
                await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE_SECONDS)
        yield
        assert flood.is_alive(), f"flood {name} ended"
    finally:
        flood.kill()
        flood.join()


async def _calm(serving: Serving) -> None:
    async with asyncio.timeout(CALM_SECONDS):
        while (await serving.engine.load()).requests:  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0.2)


def _p95_ms(seconds: Sequence[float]) -> float:
    return 1e3 * percentile(seconds, 0.95)


def _wait_rows(waits: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[Row]:
    ratios = {name: _p95_ms(flooded) / _p95_ms(quiet) for name, (quiet, flooded) in waits.items()}
    told = ", ".join(
        f"{name} {ratios[name]:.2f} ({_p95_ms(flooded):.0f} over {_p95_ms(quiet):.0f} ms)"
        for name, (quiet, flooded) in waits.items()
    )
    return [
        make_row(
            "fair_share_p95_ratio",
            list(ratios.values()),
            value=max(ratios.values()),
            unit="ratio",
            goal=3.0,
            better="lower",
            limit=1.0,
            how="B's p95 of one-token requests through the gateway while A floods, over the p95 of the quiet "
            f"time before, {ASKED} requests each, one by one; the worst way of all: {told}",
        )
    ]


async def _measure_alone() -> list[float]:
    """Return one tenant's tokens/s on our engine over those with vLLM's own scheduler, by round."""
    facts = read_base_facts(TINY)
    config = engine_config(TINY, facts, slots=8, host=64, sequences=64)
    ours, stock = base_engine(config), _start_stock(config)
    ratios = []
    try:
        for number in range(ROUNDS + 1):
            sides = [ours, stock] if number % 2 else [stock, ours]
            rates = {id(engine): await _rate(engine) for engine in sides}
            if number:
                ratios.append(rates[id(ours)] / rates[id(stock)])
    finally:
        ours.close()
        stock.close()
    return ratios


def _start_stock(config: EngineConfig) -> VllmEngine:
    """Start the same engine as it was before tenants shared it."""
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = replace(
        engine_arguments(config),
        scheduler_cls=None,
        additional_config={},
        max_num_seqs=config.max_sequences,
    )
    llm = AsyncLLM.from_engine_args(arguments)
    return VllmEngine(llm, idle_builder(config), compile_seconds=config.compile_seconds)


async def _rate(engine: VllmEngine) -> float:
    async def one(number: int) -> None:
        request = SampleRequest(
            request_id=f"alone-{number}-{time.monotonic_ns()}",
            tenant_id=TenantId("alone"),
            revision=None,
            tokens=tuple(range(20, 60)),
            sampling=Sampling(max_new_tokens=TOKENS, temperature=1.0, n=COMPLETIONS, ignore_eos=True),
        )
        await engine.sample(request, request_id=request.request_id, adapter=None)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    return REQUESTS * COMPLETIONS * TOKENS / (time.perf_counter() - began)


def _alone_row(ratios: Sequence[float]) -> Row:
    return make_row(
        "alone_throughput_ratio",
        ratios,
        unit="ratio",
        goal=0.95,
        better="higher",
        limit=1.0,
        how=f"tokens/s of one tenant with {REQUESTS} requests of {COMPLETIONS} completions, {TOKENS} tokens "
        f"each, over the same engine with vLLM's own scheduler, {ROUNDS} alternating rounds",
    )


def _draw(figure: Any, waits: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    if not waits:
        return
    axes = figure.subplots()  # Any: matplotlib is untyped
    labels = [label for name in waits for label in (f"quiet\n{name}", "flooded")]
    axes.boxplot(
        [[1e3 * each for each in samples] for pair in waits.values() for samples in pair],
        tick_labels=labels,
        showfliers=False,
    )
    axes.tick_params(axis="x", labelrotation=45)
    axes.set(title="B's one-token requests, ms", ylim=(0, None))
