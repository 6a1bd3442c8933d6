"""Three policies by GRPO on one stack: how much sooner are they done together than one after another?

The MinT paper (arXiv 2605.13779, Table 4) saves by filling one policy's waits with another's work: 1.77x at
4B, 1.45x at 30B, at unchanged peak memory. Here both arms are managed jobs through the public API, on fresh
stacks, whole: rollout by vLLM, scoring, training, export, publication, load.

The overlap limit is the seconds of the jobs one by one over the longest of three times, all measured there:
how long waves were sampled, how long the trainer computed, and the processor time of the whole stack over the
machine's cores. It is what perfect overlap without batching would give.

The rows of ``ahead`` let the three jobs sample ahead of training as well, with DPPO for GRPO, over the same
jobs one by one, which do not.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from benches.machine import DeviceName
from benches.report import Report, Row, bootstrap_interval, make_row
from benches.stacks import open_bench_stack, shared_gpu
from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.core.jobs import TERMINAL, JobNow, read_job
from services.standalone.demo.requests import (
    create_policy,
    evaluate,
    heldout_prompts,
    recipe_of,
    submit_job,
)
from services.standalone.demo.run import watched_memory

TASKS = ("mode:copy", "mode:sort", "mode:rot1")
STEPS, HELDOUT, SEEDS = 20, 128, 10
AHEAD = 2
"""Waves that a job samples ahead of training, in the rows of ``ahead``."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One run of all policies: wall seconds, what they went into, peak memory, accuracies.

    ``sampling`` and ``training`` are sums over jobs, ``computing`` is processor time over the cores.
    """

    seconds: float
    sampling: float
    training: float
    computing: float
    peak_mb: float
    accuracy: tuple[float, ...]


Pair = tuple[Arm, Arm]
"""One by one, and together, on one seed."""


def run(*, device: DeviceName = "cpu") -> Report:
    """Measure."""
    pairs, ahead = measure(device=device)
    both = report(pairs)
    return replace(both, rows=[*both.rows, *_rows(ahead, "three_policies_ahead"), _tokens_share(ahead)])


def measure(*, seeds: int = SEEDS, device: DeviceName = "cpu") -> tuple[list[Pair], list[Pair]]:
    """Train the policies one by one, together, and together with sampling ahead, on as many seeds.

    Which comes first alternates. The first pairs compare the first two, the others the first and the last.
    """
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    pairs, ahead = [], []
    for seed in range(seeds):
        order = ("one by one", "together", "ahead")
        arms = {
            way: asyncio.run(_arm(seed, device, way)) for way in (order if seed % 2 == 0 else order[::-1])
        }
        pairs.append((arms["one by one"], arms["together"]))
        ahead.append((arms["one by one"], arms["ahead"]))
        for way in order:
            print(f"seed {seed}, {way}: {arms[way]}")
    return pairs, ahead


def report(pairs: Sequence[Pair]) -> Report:
    """Return the rows of three jobs at once that do not sample ahead."""
    rows = _rows(pairs, "three_policies")
    return Report(bench="policies", rows=rows, draw=lambda figure: draw(figure, pairs))


async def _arm(seed: int, device: DeviceName, way: str) -> Arm:
    async with open_bench_stack(overrides=shared_gpu(device)) as stack:
        with PublicApi(stack.gateway_url, stack.api_key) as api:
            return await _trained(api, seed, together=way != "one by one", ahead=AHEAD * (way == "ahead"))


async def _trained(api: PublicApi, seed: int, *, together: bool, ahead: int) -> Arm:
    recipes = [recipe_of(api, task) for task in TASKS]
    for task, recipe in zip(TASKS, recipes, strict=True):
        create_policy(api, _policy(task), "tiny", rank=recipe.rank, alpha=recipe.alpha)
    create_policy(api, "warm-up", "tiny", rank=recipes[0].rank, alpha=recipes[0].alpha)
    await asyncio.to_thread(_train, api, TASKS[0], 2, seed, policy="warm-up")
    async with watched_memory() as memory:
        began, busy = time.perf_counter(), _processor_seconds()
        if together:
            jobs = (asyncio.to_thread(_train, api, task, STEPS, seed, ahead=ahead) for task in TASKS)
            trained = await asyncio.gather(*jobs)
        else:
            trained = [await asyncio.to_thread(_train, api, task, STEPS, seed) for task in TASKS]
        seconds, busy = time.perf_counter() - began, _processor_seconds() - busy
    accuracy = []
    for task, recipe, job in zip(TASKS, recipes, trained, strict=True):
        # A step in which nothing was to be learnt makes no new revision.
        last = job.steps[-1].revision
        assert last is not None
        prompts = heldout_prompts(api, task, HELDOUT, seed=1)
        model = f"{_policy(task)}@{last.number}"
        found = await asyncio.to_thread(evaluate, api, model, task, prompts, max_tokens=recipe.max_new_tokens)
        accuracy.append(found.accuracy)
    steps_done = [step for job in trained for step in job.steps]
    return Arm(
        seconds=seconds,
        sampling=sum((step.completed_at or 0.0) - (step.requested_at or 0.0) for step in steps_done),
        training=sum(step.seconds or 0.0 for step in steps_done),
        computing=busy / (os.cpu_count() or 1),
        peak_mb=memory.mb,
        accuracy=tuple(accuracy),
    )


def _processor_seconds() -> float:
    """Return the processor time of every process of the stack, the engine's and Postgres's included."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _train(api: PublicApi, task: str, steps: int, seed: int, *, policy: str = "", ahead: int = 0) -> JobNow:
    """Train one policy, the task's own unless it is named, and return its job."""
    job_id = submit_job(api, policy or _policy(task), task, steps=steps, seed=seed, ahead=ahead)
    while True:
        job = read_job(api.get(path_of("jobs", job_id)))
        if job.state in TERMINAL:
            assert job.state == "succeeded", job.reason
            return job
        time.sleep(POLL_SECONDS)


def _policy(task: str) -> str:
    return task.replace(":", "-")


def _rows(pairs: Sequence[Pair], name: str) -> list[Row]:
    limits = [overlap_limit(alone) for alone, _ in pairs]
    ratios = [alone.seconds / together.seconds for alone, together in pairs]
    limit = statistics.median(limits)
    gaps = [
        statistics.fmean(together.accuracy) - statistics.fmean(alone.accuracy) for alone, together in pairs
    ]
    return [
        make_row(
            f"{name}_ratio",
            ratios,
            unit="ratio",
            interval=bootstrap_interval(ratios, statistics.median),
            goal=min(1.77, 0.9 * limit),
            better="higher",
            limit=limit,
            how=f"three GRPO jobs of {STEPS} steps, tiny, one after another over all at once: "
            f"{statistics.median(alone.seconds for alone, _ in pairs):.1f} s and "
            f"{statistics.median(together.seconds for _, together in pairs):.1f} s. Of the first, waves were "
            f"sampled {_median(pairs, 'sampling'):.1f} s, the trainer computed "
            f"{_median(pairs, 'training'):.1f} s, {os.cpu_count()} busy cores would have taken "
            f"{_median(pairs, 'computing'):.1f} s: the longest is the limit's time. Goal: the paper's, or "
            "nine tenths of the limit if that is less",
        ),
        make_row(
            f"{name}_memory",
            [together.peak_mb / alone.peak_mb for alone, together in pairs],
            unit="ratio",
            goal=1.05,
            better="lower",
            limit=1.0,
            how=f"peak resident memory of the whole stack, together over one by one: "
            f"{statistics.median(together.peak_mb for _, together in pairs):.0f} MB",
        ),
        make_row(
            f"{name}_accuracy_gap",
            gaps,
            unit="accuracy",
            goal=-0.05,
            better="higher",
            how=f"mean held-out accuracy ({HELDOUT} prompts a task) together less one by one, per seed; one "
            f"by one {_accuracies(one for one, _ in pairs)}, together {_accuracies(one for _, one in pairs)}",
        ),
    ]


def _tokens_share(pairs: Sequence[Pair]) -> Row:
    """Return the share of its rate of sampling alone that an engine reaches in three jobs at once."""
    shares = [alone.sampling / ahead.seconds for alone, ahead in pairs]
    return make_row(
        "rl_tokens_share",
        shares,
        unit="ratio",
        interval=bootstrap_interval(shares, statistics.median),
        goal=None,
        better="higher",
        limit=statistics.median(alone.sampling / _overlapped(alone) for alone, _ in pairs),
        how="tokens per second that the engine samples for three jobs ahead of training, over those while it "
        f"samples for one job: {_median(pairs, 'sampling'):.1f} s of sampling one by one in "
        f"{statistics.median(ahead.seconds for _, ahead in pairs):.1f} s. Limit: perfect overlap",
    )


def overlap_limit(alone: Arm) -> float:
    """Return what perfect overlap would make of the seconds one by one: see the module's docstring."""
    return alone.seconds / _overlapped(alone)


def _overlapped(alone: Arm) -> float:
    """Return the seconds of perfect overlap."""
    return max(alone.sampling, alone.training, alone.computing)


def _median(pairs: Sequence[Pair], name: str) -> float:
    return statistics.median(float(getattr(alone, name)) for alone, _ in pairs)


def _accuracies(arms: Iterable[Arm]) -> str:
    return " ".join(f"{statistics.fmean(arm.accuracy):.3f}" for arm in arms)


def draw(figure: Any, pairs: Sequence[Pair]) -> None:
    """Draw seconds and memory of both arms."""
    names = ["one by one", "together"]
    drawn = (("seconds", "three GRPO jobs, seconds"), ("peak_mb", "peak memory, MB"))
    for plot, (field, title) in zip(figure.subplots(1, 2), drawn, strict=True):
        samples = [[float(getattr(pair[arm], field)) for pair in pairs] for arm in (0, 1)]
        plot.boxplot(samples, tick_labels=names)
        plot.set(title=title, ylim=(0, 1.1 * max(map(max, samples))))
