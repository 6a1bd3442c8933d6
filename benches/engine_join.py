"""Measures a new engine of a base: seconds from ready to the first request that it answers, under load.

Everything is real: a gateway, an engine that answers steady requests, and a second engine that starts as a
process beside them, announces itself and takes its share.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from benches.report import Report, make_row
from benches.stacks import BenchStack, open_bench_stack
from services.standalone.adapters.launch import free_port

BASE = "tiny"
CLIENTS, ROUNDS = 4, 5
START_SECONDS = 180.0
LOOK_SECONDS = 0.01
_FIRST_TOKENS = "mint_loader_first_token_seconds_count"


def run() -> Report:
    """Measure."""
    seconds = asyncio.run(_run())
    row = make_row(
        "new_engine_first_request_s",
        seconds,
        unit="s",
        goal=1.5,
        better="lower",
        how=f"an engine of {BASE} joins one that answers {CLIENTS} clients: from ready to its first answered "
        f"request, seen each {1e3 * LOOK_SECONDS:.0f} ms",
    )
    return Report(bench="engine_join", rows=[row], draw=lambda figure: _draw(figure, seconds))


def _draw(figure: Any, seconds: Sequence[float]) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    axes.bar(range(1, len(seconds) + 1), seconds)
    axes.set(title="a new engine's first answer, seconds after ready", xlabel="engine")


async def _run() -> list[float]:
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    services = ("registry", "loader", "gateway")
    async with open_bench_stack(services, base=BASE) as stack, _load(stack):
        return [await _joined(stack, number) for number in range(ROUNDS)]


async def _joined(stack: BenchStack, number: int) -> float:
    """Start an engine; return its seconds from ready to its first answer."""
    environ, port = psutil.Process(stack.pids(f"loader-{BASE}")[0]).environ(), free_port()
    environ |= {
        "MINT_LOADER_HTTP_PORT": str(port),
        "MINT_LOADER_ADVERTISE_URL": f"http://127.0.0.1:{port}",
        "MINT_LOADER_ENGINE_ID": f"joins-{number}",
        "MINT_LOADER_CACHE_DIR": str(Path(environ["MINT_LOADER_CACHE_DIR"]).with_name(f"joins-{number}")),
    }
    process = subprocess.Popen(  # it begins at once
        [sys.executable, "-m", "services.loader"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as engine:
            await _until(lambda: _is_ready(engine))
            began = time.perf_counter()
            await _until(lambda: _has_answered(engine))
            return time.perf_counter() - began
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def _is_ready(engine: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await engine.get("/readyz")).status_code == 200
    return False


async def _has_answered(engine: httpx.AsyncClient) -> bool:
    lines = (await engine.get("/metrics")).text.splitlines()
    return any(float(line.split()[-1]) > 0 for line in lines if line.startswith(_FIRST_TOKENS))


async def _until(is_true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if await is_true():
                return
            await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def _load(stack: BenchStack) -> AsyncIterator[None]:
    """Keep `CLIENTS` streams open, one after another."""
    headers = {"authorization": f"Bearer {stack.api_key}"}
    body = {"model": BASE, "prompt": "f ab=", "max_tokens": 8, "ignore_eos": True, "stream": True}

    async def asks(client: httpx.AsyncClient) -> None:
        while True:
            answer = await client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text

    async with httpx.AsyncClient(base_url=stack.gateway_url, headers=headers, timeout=60) as client:
        clients = [asyncio.ensure_future(asks(client)) for _ in range(CLIENTS)]
        try:
            yield
            for each in clients:
                if each.done():
                    each.result()
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
