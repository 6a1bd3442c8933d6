"""Runs the demo on a stack of its own, fresh, below the folder of its report."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from mint_client.adapters.public_api import PublicApi
from mint_client.views.job import JobView
from mint_common.waiting import cancel_all
from services.standalone.adapters.bases import SMOLLM2, TINY, ensure_base
from services.standalone.adapters.gpus import usable_gpus
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import DType, plan_alike
from services.standalone.demo.checks import DemoResult, check_all
from services.standalone.demo.report import Report, make_report, write_report
from services.standalone.demo.scenario import Scenario, run_scenario
from services.standalone.settings import read_standalone_settings
from services.standalone.views.parts import PartsView

SAMPLE_SECONDS = 1.0
MEGABYTE = 2**20

TASKS = {SMOLLM2: "progression", TINY: "mode:copy"}
SMALL = {"MINT_LOADER_HOST_CAPACITY": "12"}
"""Few adapters in memory: the stack stays below 6 GB, and older revisions are evicted and loaded again."""
SHARED = {"MINT_LOADER_GPU_MEMORY_UTILIZATION": "0.5", "MINT_TRAINER_MEMORY_SHARE": "0.3"}
"""Shares of the GPU for engine and trainer; the rest is for memory that neither counts."""
HELDOUT_PROMPTS = {SMOLLM2: 96, TINY: 256}


class PeakMemory:
    """Peak of the resident memory."""

    mb = 0.0


@contextlib.asynccontextmanager
async def watched_memory() -> AsyncIterator[PeakMemory]:
    """Sample this process and its descendants inside the block; shared pages count in each."""
    peak = PeakMemory()

    async def sample() -> None:
        while True:
            peak.mb = max(peak.mb, await asyncio.to_thread(_resident_mb))
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        await cancel_all(watching)


def _resident_mb() -> float:
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / MEGABYTE


async def run_demo(
    base: str, *, bases: Path, out: Path, dtype: DType, steps: int | None, console: Console
) -> Report:
    """Run the demo and write its report; afterwards the stack and its state are gone, its logs stay."""
    began = time.monotonic()
    state = _fresh_state(out)
    try:
        async with _cancelled_on_signals(), watched_memory() as memory:
            result = await _run_on_fresh_stack(base, bases, state, dtype=dtype, steps=steps, console=console)
    finally:
        _keep_logs(state, out / "log")
    checks = check_all(result)
    report = make_report(result, checks, wall_seconds=time.monotonic() - began, rss_peak_mb=memory.mb)
    write_report(report, result, out)
    return report


async def _run_on_fresh_stack(
    base: str, bases: Path, state: StateFolder, *, dtype: DType, steps: int | None, console: Console
) -> DemoResult:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    place = await asyncio.to_thread(ensure_base, bases, base, report=say)
    on_gpu = bool(await asyncio.to_thread(usable_gpus))
    if on_gpu and dtype == "auto":
        dtype = "bfloat16"  # the dtype that both choose, which decides the tolerance
    settings = read_standalone_settings({**SMALL, **(SHARED if on_gpu else {}), **os.environ})
    parts, progress = PartsView(console), JobView(console)
    opening = open_stack(
        state,
        [replace(place, plan=plan_alike(dtype=dtype))],
        port=free_port(),
        settings=settings,
        observers=(parts,),
    )
    async with opening as stack:
        with parts.live():
            await stack.supervisor.all_ready()
        scenario = Scenario(
            base=base, task=TASKS[base], num_prompts=HELDOUT_PROMPTS[base], steps=steps, dtype=dtype
        )
        with PublicApi(stack.gateway_url, stack.api_key) as api, progress.live():
            return await asyncio.to_thread(run_scenario, api, scenario, watch=progress, say=say)


@contextlib.asynccontextmanager
async def _cancelled_on_signals() -> AsyncIterator[None]:
    """Turn SIGTERM and Ctrl-C into a cancellation, so that the stack ends in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _fresh_state(out: Path) -> StateFolder:
    """Return an empty state folder, without the reports and the state of an earlier demo."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "report.md", "reward.png"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "state", ignore_errors=True)
    return StateFolder(root=out / "state")


def _keep_logs(state: StateFolder, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if state.logs.exists():
        shutil.move(state.logs, target)
    shutil.rmtree(state.root, ignore_errors=True)
