"""How fast are a user's rows taken in, and in how much memory?"""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benches.job_rows import chat_lines
from benches.report import Report, Row, make_row
from benches.stacks import BenchStack, open_bench_stack, scratch_folder
from mint_common.datasets.check import check_file

INGESTED, INGESTS = 200_000, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Rows a second of each upload and of the check alone, and megabytes that the gateway and it grew to."""

    rates: list[float]
    checks: list[float]
    megabytes: list[float]


def run() -> Report:
    """Measure."""
    found = asyncio.run(_ingest(INGESTED))

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        axes = figure.subplots()
        axes.plot(found.checks, color="#b0b0b0", label="the check alone")
        axes.plot(found.rates, color="#2a6f97", label="sent, checked and stored")
        axes.set(title="rows a second", xlabel="file", ylim=(0, None))
        axes.legend()

    return Report(bench="jobs_ingest", rows=_rows(found), draw=draw)


async def _ingest(rows: int) -> Ingested:
    """Upload files of short chats, each another, and check the same in this process."""
    rates, checks, megabytes = [], [], []
    async with open_bench_stack(("registry", "gateway")) as stack:
        with scratch_folder() as folder:
            for number in range(INGESTS):
                path = folder / f"{number}.jsonl"
                path.write_bytes(chat_lines(rows, seed=number))
                watch = asyncio.create_task(_peak_mb(stack))
                began = time.perf_counter()
                await _upload(stack, path)
                rates.append(rows / (time.perf_counter() - began))
                watch.cancel()
                (peak,) = await asyncio.gather(watch, return_exceptions=True)
                assert isinstance(peak, float), peak
                megabytes.append(peak)
                began = time.process_time()
                assert check_file(path)[0].rows == rows
                checks.append(rows / (time.process_time() - began))
    return Ingested(rates=rates, checks=checks, megabytes=megabytes)


async def _upload(stack: BenchStack, path: Path) -> None:
    form = aiohttp.FormData()
    form.add_field("purpose", "fine-tune")
    with path.open("rb") as file:
        form.add_field("file", file, filename=path.name)
        headers = {"Authorization": f"Bearer {stack.api_key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{stack.gateway_url}/v1/files", data=form) as answer,
        ):
            told = json.loads(await answer.read())
            assert answer.status == 200, told
            assert told["status"] == "processed", told


async def _peak_mb(stack: BenchStack) -> float:
    """Return the most memory that the gateway and its check have had, once cancelled."""
    peak = 0
    try:
        while True:
            peak = max(peak, stack.rss_bytes("gateway"))
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        return peak / 1e6


def _rows(found: Ingested) -> list[Row]:
    return [
        make_row(
            "ingest_rows_per_s",
            found.rates,
            unit="1/s",
            goal=20_000.0,
            better="higher",
            limit=statistics.median(found.checks),
            how="short chats in one JSONL file by POST /v1/files: sent, checked in a process of its own, "
            "stored. Limit: the check alone, a second of CPU in this process",
        ),
        make_row(
            "ingest_peak_mb",
            found.megabytes,
            value=max(found.megabytes),
            unit="MB",
            goal=None,
            better="lower",
            how="resident memory of the gateway and its check meanwhile",
        ),
    ]
