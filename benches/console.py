"""Measures the console's pages: time at many policies, bytes, and the CPU of fifty viewers of one job.

Everything is real: a whole stack over the base tiny, a job that makes revisions, and policies as rows.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import psutil

from benches.catalog_rows import LORA, NOW
from benches.report import Report, Row, make_row, percentile
from benches.stacks import BenchStack, open_bench_stack
from services.gateway.http.console.assets import ASSETS

POLICIES, ROUNDS, WARMING = 100_000, 60, 5
STEPS, VIEWERS, WATCHED_SECONDS = 6, 50, 60.0
CALM_SECONDS, OFTEN_SECONDS = 0.3, 2.0
"""Delays of live.js: from an event to the next read, and between two reads."""
MANY = 1_000_000
_COLUMNS = ("policy_id", "tenant_id", "name", "base", "lora", "created_at")
_PART = 20_000


def run(policies: int = POLICIES) -> Report:
    """Measure over that many policies."""
    return asyncio.run(_run(policies))


async def _run(policies: int) -> Report:
    overrides = {"MINT_REGISTRY_TENANT_POLICIES": str(2 * policies)}
    async with open_bench_stack(overrides=overrides) as stack, _signed_in(stack) as browser:
        await _fill(stack, browser, policies)
        job = await _submit(browser, "shown", STEPS)
        await _ended(browser, job)
        pages = {
            "overview": "/console",
            "policies": f"/console/policies?after={_name(policies // 2)}",
            "search": f"/console/policies?name={_name(policies // 3)[:-2]}",
            "policy": "/console/policies/shown",
            "revision": "/console/policies/shown/revisions/2",
            "jobs": "/console/jobs",
            "job": f"/console/jobs/{job}",
            "rollouts": f"/console/jobs/{job}/rollouts?step=1",
            "evaluations": "/console/evaluations",
            "residency": "/console/residency",
            "playground": "/console/playground",
            "find": f"/console/find?q={await _digest(browser)}",
            "keys": "/console/keys",
        }
        times, sizes = {}, {}
        for name, page in pages.items():
            times[name], sizes[name] = await _timed(browser, page)
        share = await _watched(stack, browser)
    slow = 100.0 if policies >= MANY else 50.0
    rows = [_page_row(name, times[name], sizes[name], policies, slow) for name in pages]
    return Report(bench="console", rows=[*rows, _bytes_row(sizes), share], draw=_drawing(times))


@asynccontextmanager
async def _signed_in(stack: BenchStack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=stack.gateway_url, headers={"accept": "text/html"}, timeout=120
    ) as browser:
        await browser.post("/console/signin", data={"key": stack.api_key})
        page = (await browser.get("/console")).text
        found = re.search(r'data-form-token="([0-9a-f]+)"', page)
        assert found is not None
        browser.headers["x-mint-form"] = found[1]
        yield browser


def _name(index: int) -> str:
    return f"bench-{index:07}"


async def _fill(stack: BenchStack, browser: httpx.AsyncClient, policies: int) -> None:
    tenant = (await browser.get("/mint/v1/whoami")).json()["tenant_id"]
    lora, created_at = json.dumps(asdict(LORA)), datetime.fromtimestamp(NOW, UTC)
    connection = await asyncpg.connect(stack.dsn, server_settings={"search_path": "registry"})
    for begin in range(0, policies, _PART):
        rows = [
            (f"pol_bench{index:07}", tenant, _name(index), "tiny", lora, created_at)
            for index in range(begin, min(begin + _PART, policies))
        ]
        await connection.copy_records_to_table("policies", columns=_COLUMNS, records=rows)
    await connection.execute("ANALYZE")
    await connection.close()


async def _submit(browser: httpx.AsyncClient, policy: str, steps: int) -> str:
    made = await browser.post("/mint/v1/policies", json={"name": policy, "base": "tiny", "lora": {"rank": 8}})
    made.raise_for_status()
    spec = {"policy": policy, "task": "mode:copy", "steps": steps, "prompts_per_step": 4, "group_size": 4}
    job = (await browser.post("/mint/v1/jobs", json=spec)).raise_for_status().json()
    return str(job["job_id"])


async def _ended(browser: httpx.AsyncClient, job: str) -> Mapping[str, Any]:
    while True:
        found: Mapping[str, Any] = (await browser.get(f"/mint/v1/jobs/{job}")).json()
        if found["finished_at"] is not None:
            assert found["state"] == "succeeded", found["reason"]
            return found
        await asyncio.sleep(0.5)


async def _timed(browser: httpx.AsyncClient, page: str) -> tuple[list[float], int]:
    """Return the milliseconds of a page, and its bytes."""
    times, size = [], 0
    for number in range(ROUNDS + WARMING):
        began = time.perf_counter()
        answer = await browser.get(page)
        seconds = time.perf_counter() - began
        assert answer.status_code == 200, page
        assert "cannot be shown" not in answer.text, page
        size = len(answer.content)
        if number >= WARMING:
            times.append(1e3 * seconds)
    return times, size


async def _watched(stack: BenchStack, browser: httpx.AsyncClient) -> Row:
    """Return the share of a core that fifty viewers cost the gateway, less that of the job alone."""
    gateway = psutil.Process(stack.pids("gateway")[0])
    shares, steps = [], []
    for name, viewers in (("alone", 0), ("watched", VIEWERS)):
        job = await _submit(browser, name, 400)
        watching = [asyncio.ensure_future(_view(stack, job)) for _ in range(viewers)]
        await asyncio.sleep(5)
        used, began, before = _cpu(gateway), time.monotonic(), await _step(browser, job)
        await asyncio.sleep(WATCHED_SECONDS)
        shares.append((_cpu(gateway) - used) / (time.monotonic() - began))
        steps.append(await _step(browser, job) - before)
        for each in watching:
            each.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await browser.post(f"/mint/v1/jobs/{job}/cancel")
    return make_row(
        "viewers_core_share",
        [max(0.0, shares[1] - shares[0])],
        unit="cores",
        goal=0.05,
        better="lower",
        how=f"CPU of the gateway, {VIEWERS} viewers of a job of {steps[1] / WATCHED_SECONDS:.2f} steps/s, "
        f"less that without ({shares[0]:.3f}); each reads the event stream and the page's part at each event",
    )


async def _digest(browser: httpx.AsyncClient) -> str:
    found = await browser.get("/mint/v1/policies/shown/revisions/2")
    return str(found.json()["digest"])


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _step(browser: httpx.AsyncClient, job: str) -> int:
    return int((await browser.get(f"/mint/v1/jobs/{job}", params={"after_step": 10**6})).json()["step"])


async def _view(stack: BenchStack, job: str) -> None:
    """Do what the page's script does: wait for an event of the job, then read the part that changes."""
    types = {"type": ["revision.exported", "wave.cancelled", "training.failed", "job.finished"]}
    events_of = ("GET", "/mint/v1/events")
    async with _signed_in(stack) as browser, browser.stream(*events_of, params=types) as events:
        reading: asyncio.Task[httpx.Response] | None = None
        read_at = 0.0
        async for line in events.aiter_lines():
            if line.startswith("data:") and job in line and (reading is None or reading.done()):
                pause = max(CALM_SECONDS, OFTEN_SECONDS - (time.monotonic() - read_at))
                read_at = time.monotonic() + pause
                reading = asyncio.ensure_future(_part(browser, job, pause))


async def _part(browser: httpx.AsyncClient, job: str, pause: float) -> httpx.Response:
    await asyncio.sleep(pause)
    return await browser.get(f"/console/jobs/{job}", headers={"hx-request": "true"})


def _page_row(name: str, times: list[float], size: int, policies: int, slow: float) -> Row:
    return make_row(
        f"{name}_p95_ms",
        times,
        value=percentile(times, 0.95),
        unit="ms",
        goal=slow if name in {"policies", "search"} else 50.0,
        better="lower",
        how=f"the page whole, over one connection, with {policies:,} policies; {size:,} bytes",
    )


def _bytes_row(sizes: Mapping[str, int]) -> Row:
    return make_row(
        "static_bytes",
        [float(ASSETS.sent_bytes)],
        unit="B",
        goal=150_000.0,
        better="lower",
        how=f"all static files as sent, once a browser; the largest page has {max(sizes.values()):,} bytes",
    )


def _drawing(times: Mapping[str, list[float]]) -> Any:  # a drawing function of `Report`
    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        axes = figure.subplots()
        axes.boxplot(
            list(times.values()), tick_labels=list(times), showfliers=False, orientation="horizontal"
        )
        axes.set(title="pages of the console, ms", xlim=(0, None))

    return draw
