"""Slowdown of a chat by small jobs that train on the same machine.

One stack of SmolLM2 with all services. A client asks for completions one by one: quiet, beside the jobs, and
quiet again when they have been cancelled, so that a machine that changes meanwhile shows.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from benches.load import OpenAI, open_openai
from benches.report import Report, Row, make_row
from benches.stacks import BenchStack, open_bench_stack

BASE, JOBS, TOKENS = "smollm2", 41, 48
JOB = {
    "task": "progression",
    "steps": 200,
    "prompts_per_step": 2,
    "group_size": 4,
    "max_new_tokens": 8,
}
QUIET, BESIDE = 6, 12
SETTLE_SECONDS, SUBMIT_SECONDS = 45.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The chat's tokens per second of each answer, and the jobs' steps per minute, alone and beside it."""

    before: Sequence[float]
    beside: Sequence[float]
    after: Sequence[float]
    steps_alone: float
    steps_beside: float


def run(only: str | None = None) -> Report:
    """Measure; all rows come of the same run."""
    del only
    found = asyncio.run(measure())
    return Report(bench="beside_jobs", rows=_rows(found), draw=lambda figure: _draw(figure, found))


async def measure(
    *, base: str = BASE, jobs: int = JOBS, quiet: int = QUIET, beside: int = BESIDE
) -> Measured:
    """Ask quiet, beside the jobs, and quiet again."""
    async with (
        open_bench_stack(base=base) as stack,
        open_openai(stack.gateway_url, api_key=stack.api_key) as chat,
        _open_jobs(stack) as train,
    ):
        await _rates(chat, base, 2)
        before = await _rates(chat, base, quiet)
        async with asyncio.timeout(SUBMIT_SECONDS):
            names = [await train.submit(base, number) for number in range(jobs)]
        began, steps = time.monotonic(), await train.steps()
        await asyncio.sleep(SETTLE_SECONDS)
        alone = (await train.steps() - steps) / (time.monotonic() - began)
        began, steps = time.monotonic(), await train.steps()
        during = await _rates(chat, base, beside)
        slowed = (await train.steps() - steps) / (time.monotonic() - began)
        for name in names:
            await train.cancel(name)
        await asyncio.sleep(SETTLE_SECONDS)
        after = await _rates(chat, base, quiet)
    return Measured(
        before=before, beside=during, after=after, steps_alone=60 * alone, steps_beside=60 * slowed
    )


async def _rates(chat: OpenAI, base: str, count: int) -> list[float]:
    rates = []
    for _ in range(count):
        answer = await chat.ask(base, tokens=TOKENS)
        assert answer.status == 200, f"the chat was answered with {answer.status}"
        rates.append(TOKENS / answer.seconds)
    return rates


class _Jobs:
    """The jobs' side of the client."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/mint/v1"

    async def submit(self, base: str, number: int) -> str:
        """Make a policy and a job on it."""
        policy = f"beside-{number}"
        await self._call("POST", "/policies", {"name": policy, "base": base})
        job: str = (await self._call("POST", "/jobs", {**JOB, "policy": policy, "seed": number}))["job_id"]
        return job

    async def steps(self) -> int:
        """Return how many steps all jobs have taken."""
        return sum(job["step"] for job in await self._call("GET", "/jobs?limit=1000"))

    async def cancel(self, job: str) -> None:
        """End a job."""
        await self._call("POST", f"/jobs/{job}/cancel")

    async def _call(self, method: str, path: str, body: object = None) -> Any:  # Any: JSON
        async with self._http.request(method, self._url + path, json=body) as answer:
            return await answer.json()


@contextlib.asynccontextmanager
async def _open_jobs(stack: BenchStack) -> AsyncIterator[_Jobs]:
    headers = {"authorization": f"Bearer {stack.api_key}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:
        yield _Jobs(http, stack.gateway_url)


def _rows(found: Measured) -> list[Row]:
    quiet = statistics.median([*found.before, *found.after])
    drift = statistics.median(found.after) / statistics.median(found.before)
    return [
        make_row(
            "serving_beside_jobs_ratio",
            [rate / quiet for rate in found.beside],
            unit="ratio",
            goal=0.7,
            better="higher",
            limit=1.0,
            how=f"tokens/s of {BASE}'s answers of {TOKENS} tokens, one by one, beside {JOBS} jobs of 2 "
            f"prompts x 4 answers x 8 tokens, over {quiet:.2f} tokens/s, the median of {len(found.before)} "
            f"answers before and {len(found.after)} after them (after over before: {drift:.2f})",
        ),
        make_row(
            "job_steps_beside_serving",
            [found.steps_beside],
            unit="1/min",
            goal=None,
            better="higher",
            limit=found.steps_alone,
            how=f"steps of all {JOBS} jobs a minute while the chat is served. Limit: without the chat",
        ),
    ]


def _draw(figure: Any, found: Measured) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    axes.boxplot(
        [found.before, found.beside, found.after], tick_labels=["before", f"beside {JOBS} jobs", "after"]
    )
    axes.set(title="a chat's tokens/s", ylim=(0, None))
