"""Sampling ahead of training where episodes are slow: the wall time of a job over that of alternating.

The environment is a reward URL that takes 0.5 to 4 s an answer, lognormal, as sandboxes and judges do; all
other parts are a stack's own. Answers of a step come from a revision that is at most K steps old.
"""

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import fmean
from typing import Any

from benches.report import Report, Row, make_row
from benches.stacks import BenchStack, open_bench_stack
from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.core.jobs import TERMINAL, JobNow, read_job
from services.standalone.demo.requests import create_policy, evaluate, heldout_prompts, recipe_of

TASK, STEPS, PROMPTS, GROUP, HELDOUT, ROWS = "mode:copy", 10, 8, 8, 128, 80
AHEAD, SEEDS = (0, 1, 2, 4), 3
SHORTEST, LONGEST, MEDIAN, SIGMA = 0.5, 4.0, 1.2, 0.7
PUBLISHED = {0: 6235.0, 1: 4360.0, 2: 3544.0, 4: 2942.0}
"""Seconds of 100 updates that marin measured at these K (marin-community/marin#8955)."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One job: its wall time in seconds, its accuracy on held-out prompts, and the lag of each step."""

    seconds: float
    accuracy: float
    lags: tuple[int, ...]


def run() -> Report:
    """Measure."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    found = asyncio.run(_measure())
    return Report(bench="rollout", rows=_rows(found), draw=lambda figure: _draw(figure, found))


async def _measure() -> dict[int, list[Run]]:
    found: dict[int, list[Run]] = {ahead: [] for ahead in AHEAD}
    with _slow_rewards() as url:
        async with open_bench_stack() as stack:
            await asyncio.to_thread(_add_environment, stack, url)
            with PublicApi(stack.gateway_url, stack.api_key) as api:
                rows = _rows_of(api)
                await asyncio.to_thread(_train, api, rows, "warm-up", ahead=0, steps=2, seed=9)
                for seed in range(SEEDS):
                    for ahead in AHEAD if seed % 2 == 0 else AHEAD[::-1]:
                        one = await asyncio.to_thread(_run, api, rows, ahead, seed)
                        found[ahead].append(one)
                        print(f"K={ahead}, seed {seed}: {one}")
    return found


def _run(api: PublicApi, rows: Sequence[Mapping[str, Any]], ahead: int, seed: int) -> Run:
    policy = f"ahead-{ahead}-{seed}"
    began = time.perf_counter()
    job = _train(api, rows, policy, ahead=ahead, steps=STEPS, seed=seed)
    seconds = time.perf_counter() - began
    last = job.steps[-1].revision
    assert last is not None
    prompts = heldout_prompts(api, TASK, HELDOUT, seed=1)
    scored = evaluate(api, f"{policy}@{last.number}", TASK, prompts, max_tokens=8)
    shown = api.get(path_of("jobs", job.job_id))["steps"]
    return Run(seconds=seconds, accuracy=scored.accuracy, lags=tuple(step["staleness"] for step in shown))


def _train(
    api: PublicApi, rows: Sequence[Mapping[str, Any]], policy: str, *, ahead: int, steps: int, seed: int
) -> JobNow:
    recipe = recipe_of(api, TASK)
    create_policy(api, policy, "tiny", rank=recipe.rank, alpha=recipe.alpha)
    env = {"kind": "http", "id": "slow", "args": {"rows": rows}, "max_turns": 1, "episode_seconds": 60.0}
    body = {
        "policy": policy,
        "env": env,
        "algorithm": "dppo",
        "steps": steps,
        "prompts_per_step": PROMPTS,
        "group_size": GROUP,
        "max_new_tokens": recipe.max_new_tokens,
        "learning_rate": 2e-3,
        "staleness": ahead,
        "seed": seed,
    }
    job_id = api.post("/jobs", body)["job_id"]
    while True:
        job = read_job(api.get(path_of("jobs", job_id)))
        if job.state in TERMINAL:
            assert job.state == "succeeded", job.reason
            return job
        time.sleep(POLL_SECONDS)


def _rows_of(api: PublicApi) -> list[dict[str, Any]]:
    drawn = api.post(path_of("tasks", TASK, "prompts"), {"split": "train", "n": ROWS, "seed": 0})["prompts"]
    return [
        {"prompt": [{"role": "user", "content": each["text"]}], "reference": each["entry"]} for each in drawn
    ]


def _add_environment(stack: BenchStack, url: str) -> None:
    mint = Path(sys.executable).with_name("mint")
    command = [mint, "env", "add", "http", url, "--name", "slow", "--dir", stack.folder.root]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


class _Rewards(BaseHTTPRequestHandler):
    """Rewards an exact answer with 1, after a while that its id gives."""

    def do_POST(self) -> None:
        """Answer a request for rewards."""
        items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
        time.sleep(max(_seconds_of(item["id"]) for item in items))
        rewards = [float(item["completion"] == item["reference"]) for item in items]
        answer = json.dumps({"rewards": rewards}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        """Log nothing."""


def _seconds_of(episode_id: str) -> float:
    seconds = MEDIAN * math.exp(random.Random(episode_id).gauss(0.0, SIGMA))
    return min(max(seconds, SHORTEST), LONGEST)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def _slow_rewards() -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), _Rewards)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score"
    finally:
        server.shutdown()


def _rows(found: Mapping[int, Sequence[Run]]) -> list[Row]:
    ratios = {
        ahead: [one.seconds / sync.seconds for one, sync in zip(found[ahead], found[0], strict=True)]
        for ahead in AHEAD[1:]
    }
    slowest = [fmean(_longest(seed) for seed in range(20))] * STEPS
    rows = [
        make_row(
            f"async_wall_ratio_{ahead}" if ahead != 2 else "async_wall_ratio",
            ratios[ahead],
            unit="ratio",
            goal=0.5 if ahead == 2 else None,
            better="lower",
            limit=1 / (ahead + 1),
            how=f"seconds of {STEPS} steps of {PROMPTS * GROUP} episodes of {SHORTEST:g} to {LONGEST:g} s, up"
            f" to {ahead} steps ahead, over alternating, by seed; the limit: {ahead + 1} steps at a time;"
            f" marin has {PUBLISHED[ahead] / PUBLISHED[0]:.2f}",
        )
        for ahead in AHEAD[1:]
    ]
    gaps = [one.accuracy - sync.accuracy for one, sync in zip(found[2], found[0], strict=True)]
    rows.append(
        make_row(
            "async_accuracy_gap",
            gaps,
            unit="accuracy",
            goal=-0.05,
            better="higher",
            how=f"accuracy on {HELDOUT} held-out prompts after {STEPS} steps, 2 steps ahead less alternating,"
            f" by seed; alternating: {', '.join(f'{one.accuracy:.2f}' for one in found[0])}",
        )
    )
    rows.append(
        make_row(
            "sync_seconds",
            [one.seconds for one in found[0]],
            unit="s",
            goal=None,
            better="lower",
            limit=sum(slowest),
            how=f"seconds of {STEPS} steps that alternate; the limit is the slowest episode of each",
        )
    )
    return rows


def _longest(seed: int) -> float:
    return max(_seconds_of(f"{seed} {number}") for number in range(PROMPTS * GROUP))


def _draw(figure: Any, found: Mapping[int, Sequence[Run]]) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    own = [fmean(one.seconds for one in found[ahead]) for ahead in AHEAD]
    axes.plot(AHEAD, [each / own[0] for each in own], marker="o", label="here")
    axes.plot(AHEAD, [PUBLISHED[ahead] / PUBLISHED[0] for ahead in AHEAD], marker="o", label="marin#8955")
    axes.set_xlabel("steps that sampling may run ahead")
    axes.set_ylabel("wall time over alternating")
    axes.set_ylim(bottom=0)
    axes.legend()
