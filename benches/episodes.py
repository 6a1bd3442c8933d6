"""Cost of an episode in rollout: its time, and its memory while it is open. A stub engine answers at once.

The model door, its socket and the workers are rollout's own. Agents and environment do next to nothing.
"""
# ruff: noqa: ARG002  # stand-ins have the signatures of the parts

import asyncio
import gc
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benches.report import Report, Row, make_row
from mint_common.client.directory import EngineDirectory
from mint_common.events import EnvironmentSpec
from mint_common.ids import BaseName, TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.service import serve_socket
from services.rollout.adapters.door_socket import open_door_socket
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.environments.pool import EnvironmentLimits
from services.rollout.adapters.environments.workers import EnvironmentHost, open_environments
from services.rollout.core.environment import (
    EnvironmentInfo,
    Environments,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.sampling import Completion, GroupRequest, SampledGroup
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.handlers.episode_runs import MODEL, EpisodeRunner
from services.rollout.handlers.episode_turns import EpisodeTurns
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import DoorParts, EpisodeTerms
from services.rollout.http.door import DoorCalls, door_http
from tests.integration.rollout.environment_rig import deeds, install_deeds

EPISODES, ROUNDS, PROCESSES = 1024, 7, 3
IN_WORKER, IN_FLIGHT, OPEN = 64, 256, 2048
PROMPT, ANSWER, MAX_CONTEXT = 512, 16, 4096
ROW = '{"example_id": 1, "prompt": [{"role": "user", "content": "1"}]}'
_MEBIBYTE = 1 << 20


class _Engine(EngineSampler):
    """Answers at once with the same tokens; once ``held`` is set, when ``released`` is."""

    def __init__(self) -> None:
        super().__init__(EngineDirectory([], token=""))
        self.held, self.all_wait, self.released = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._waiting = 0

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Return one completion."""
        if self.held.is_set():
            self._waiting += 1
            if self._waiting == OPEN:
                self.all_wait.set()
            await self.released.wait()
        done = Completion(text="1", tokens=(*range(3, 2 + ANSWER), 2), logprobs=(-0.5,) * ANSWER)
        return SampledGroup(revision=None, prompt_tokens=request.prompt_tokens, completions=(done,))

    async def stop_token(self, base: BaseName) -> int:
        """Return the end token."""
        return 2

    async def max_context(self, base: BaseName) -> int:
        """Return the longest sequence."""
        return MAX_CONTEXT


class _Chat(EngineChat):
    """A template of one token a message, whose answers are plain texts."""

    def __init__(self) -> None:
        super().__init__(EngineDirectory([], token=""))

    async def render(
        self,
        base: BaseName,
        messages: Sequence[dict[str, Any]],  # JSON
        template: dict[str, Any],  # JSON
        *,
        generates: bool,
        tenant_id: TenantId,
    ) -> tuple[int, ...]:
        """Return as many tokens as there are messages."""
        return tuple(range(3, 3 + len(messages)))

    async def read(
        self, base: BaseName, request: dict[str, Any], *, tenant_id: TenantId
    ) -> dict[str, Any]:  # JSON
        """Return a plain answer."""
        return {"message": {"content": "1"}}


class _Agents:
    """An environment of this process: one call of the door for tokens, over its socket."""

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Describe."""
        return EnvironmentInfo(description="", tasks=None)

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Return tasks."""
        return [EnvironmentTask(key=str(at), entry="{}") for at in range(n)]

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes."""
        for each in episodes:
            await _asked(each.socket, each.path, PROMPT)
        return [EpisodeReport(reward=1.0) for _ in episodes]


async def _asked(socket: str, path: str, tokens: int) -> None:
    """Ask for the continuation of a prompt on a connection of its own, and read the answer."""
    body = json.dumps({"token_ids": [5] * tokens}).encode()
    head = f"POST {path}/inference/v1/generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    finally:
        writer.close()


def run() -> Report:
    """Measure."""
    os.environ.update(OMP_NUM_THREADS="1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * OPEN)), hard))
    found = {**_memories(), **asyncio.run(_measure())}
    return Report(bench="episodes", rows=_rows(found), draw=lambda figure: _draw(figure, found))


async def _measure() -> dict[str, list[float]]:
    return {
        "episodes_per_s": await _throughput(),
        "worker_overhead_ms": await _overhead(),
    }


def _memories() -> dict[str, list[float]]:
    """Return the memory of open episodes, each time of a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        found = [processes.submit(_memory_of_process).result() for _ in range(PROCESSES)]
    return {
        "open_episodes_mb": [megabytes for megabytes, _ in found],
        "open_episode_kib": [each for _, each in found],
    }


def _memory_of_process() -> tuple[float, float]:
    return asyncio.run(_memory())


@asynccontextmanager
async def _door() -> AsyncIterator[tuple[ModelDoor, _Engine]]:
    """Return a served door, and its engine."""
    async with AsyncExitStack() as stack:
        socket = await stack.enter_async_context(open_door_socket())
        engine, clock = _Engine(), SystemClock()
        requests = EngineRequests(clock, in_flight=2 * OPEN)
        door = ModelDoor(
            parts=DoorParts(sampler=engine, chat=_Chat(), requests=requests, clock=clock), socket=socket
        )
        serving = asyncio.create_task(serve_socket(door_http(door, DoorCalls()), socket))
        while not socket.is_socket():  # noqa: ASYNC110  # nothing tells it
            await asyncio.sleep(0.01)
        try:
            yield door, engine
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def _terms(number: int) -> EpisodeTerms:
    return EpisodeTerms(
        episode_id=f"ep_{number}",
        tenant_id=TenantId(f"t{number % 4}"),
        base=BaseName("stub"),
        revision=None,
        model=MODEL,
        temperature=1.0,
        max_new_tokens=ANSWER,
        max_turns=4,
        seconds=600.0,
        seed=number,
    )


async def _memory() -> tuple[float, float]:
    """Return the resident MiB with all episodes open, and the KiB that each has added."""
    process = psutil.Process()
    async with _door() as (door, engine), AsyncExitStack() as stack:
        with door.opened(_terms(0)) as (path, _):
            await _asked(str(door.socket), path, PROMPT)
        gc.collect()
        before = process.memory_info().rss
        paths = [stack.enter_context(door.opened(_terms(number)))[0] for number in range(OPEN)]
        for path in paths:
            await _asked(str(door.socket), path, PROMPT)
        engine.held.set()
        asking = [asyncio.create_task(_asked(str(door.socket), path, 2 * PROMPT)) for path in paths]
        await engine.all_wait.wait()
        gc.collect()
        after = process.memory_info().rss
        engine.released.set()
        await asyncio.gather(*asking)
    return after / _MEBIBYTE, (after - before) / OPEN / 1024


async def _throughput() -> list[float]:
    async with _door() as (door, _):
        runner = EpisodeRunner(environments=_Agents(), door=door, turns=_turns(IN_FLIGHT))
        spec = deeds()
        task = EnvironmentTask(key="1", entry="{}")
        rounds = [await _round(runner, spec, task) for _ in range(ROUNDS + 1)]
    return [EPISODES / seconds for seconds in rounds[1:]]


async def _overhead() -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(install_deeds, Path(folder))
        async with _door() as (door, _):
            limits = EnvironmentLimits(workers=1, calls=IN_WORKER, memory_bytes=4 << 30)
            host = EnvironmentHost(
                folder=Path(folder), door=str(door.socket), limits=limits, is_confined=True
            )
            async with open_environments(host) as environments:
                rounds = [
                    await _round(_runner(environments, door), deeds(), EnvironmentTask(key="1", entry=ROW))
                    for _ in range(ROUNDS + 1)
                ]
    return [1000 * seconds / EPISODES for seconds in rounds[1:]]


def _turns(episodes: int) -> EpisodeTurns:
    """Return turns of which one tenant may have that many, at engines that do not say how full they are."""
    return EpisodeTurns(lambda _: {}, SystemClock(), episodes=episodes * 4 // 3 + 1)


def _runner(environments: Environments, door: ModelDoor) -> EpisodeRunner:
    return EpisodeRunner(environments=environments, door=door, turns=_turns(IN_WORKER))


async def _round(runner: EpisodeRunner, spec: EnvironmentSpec, task: EnvironmentTask) -> float:
    """Return the seconds of a round of episodes."""
    began = time.perf_counter()
    ran = await all_of(runner.run(spec, task, [_terms(number)]) for number in range(EPISODES))
    seconds = time.perf_counter() - began
    for ((trajectory, _),) in ran:
        assert trajectory.episode.reward is not None, trajectory.episode.error
    return seconds


def _rows(found: Mapping[str, Sequence[float]]) -> list[Row]:
    each = median(found["open_episode_kib"])
    return [
        make_row(
            "worker_overhead_ms",
            found["worker_overhead_ms"],
            unit="ms",
            goal=5.0,
            better="lower",
            how=f"wall time an episode of one chat turn in a warm, confined worker, {IN_WORKER} at a time,"
            f" by rounds of {EPISODES}; the engine answers at once",
        ),
        make_row(
            "episodes_per_s",
            found["episodes_per_s"],
            unit="1/s",
            goal=300.0,
            better="higher",
            how=f"episodes of one call for tokens at the door's socket, {IN_FLIGHT} in flight, by rounds of"
            f" {EPISODES}; agents run in the same process, the engine answers at once",
        ),
        make_row(
            "open_episodes_mb",
            found["open_episodes_mb"],
            unit="MiB",
            goal=None,
            better="lower",
            how=f"resident memory with {OPEN:,} open episodes, each of an answered turn of {PROMPT} tokens"
            f" and a call that waits for the engine; {each:.0f} KiB each, the agents' connections included",
        ),
    ]


def _draw(figure: Any, found: Mapping[str, Sequence[float]]) -> None:  # Any: matplotlib is untyped
    left, right = figure.subplots(1, 2)
    left.bar(["worker"], [median(found["worker_overhead_ms"])])
    left.set_ylabel("ms an episode")
    right.bar([f"{IN_FLIGHT} in flight"], [median(found["episodes_per_s"])])
    right.set_ylabel("episodes a second")
