"""A part that is stopped lets streams end within its time, and then cuts them off with an error event."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import BaseAt, plan_alike
from services.standalone.settings import read_standalone_settings

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.timeout(600)]

BASE_DIR = Path(__file__).parents[3] / "bases" / "tiny"
SERVING = ("registry", "loader", "gateway")
SECONDS = 240.0
LONG = {"model": "tiny", "prompt": "f ab=", "n": 16, "max_tokens": 200, "ignore_eos": True, "stream": True}


class Serving:
    """A serving stack, and its parts as processes."""

    def __init__(self, folder: StateFolder, http: httpx.AsyncClient) -> None:
        self._folder = folder
        self.http = http

    def pid(self, part: str) -> int:
        pid = self._folder.read_run().parts[part].pid
        assert pid is not None
        return pid

    async def until_back(self, part: str, pid: int) -> None:
        """Wait until another process than that is ready as the part, and requests are answered."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            found = self._folder.read_run().parts[part]
            if found.state == "ready" and found.pid != pid and await self._is_answering():
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{part} did not come back")

    async def _is_answering(self) -> bool:
        body = {"model": "tiny", "prompt": "f ab=", "max_tokens": 1}
        try:
            return (await self.http.post("/v1/completions", json=body)).status_code == 200
        except httpx.TransportError:
            return False

    async def stream(self, during: Callable[[], Awaitable[None]]) -> str:
        """Return the text of a long stream; ``during`` is awaited after its first event."""
        async with self.http.stream("POST", "/v1/completions", json=LONG) as answer:
            assert answer.status_code == 200, await answer.aread()
            parts = answer.aiter_text()
            begun = await anext(parts)
            await during()
            return begun + "".join([part async for part in parts])


@pytest.fixture
async def serving(tmp_path: Path, drain_seconds: int) -> AsyncIterator[Serving]:
    overrides = {
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
        "MINT_HTTP_DRAIN_SECONDS": str(drain_seconds),
    }
    settings = read_standalone_settings({**os.environ, **overrides})
    folder = StateFolder(root=tmp_path / "state")
    base = BaseAt(name="tiny", folder=str(BASE_DIR), plan=plan_alike(engines=1))
    async with AsyncExitStack() as opened:
        stack = await opened.enter_async_context(
            open_stack(folder, [base], port=free_port(), settings=settings, services=SERVING)
        )
        await stack.supervisor.all_ready()
        headers = {"authorization": f"Bearer {stack.api_key}"}
        http = httpx.AsyncClient(
            base_url=stack.gateway_url, headers=headers, timeout=SECONDS, trust_env=False
        )
        yield Serving(folder, await opened.enter_async_context(http))


@pytest.mark.slow
@pytest.mark.parametrize("drain_seconds", [120])
async def test_a_stopped_part_ends_its_streams(serving: Serving) -> None:
    for part in ("gateway", "loader-tiny"):
        pid = serving.pid(part)

        async def stop(pid: int = pid) -> None:
            os.kill(pid, signal.SIGTERM)

        whole = await serving.stream(stop)
        assert whole.endswith("data: [DONE]\n\n")
        assert "stopping" not in whole
        await serving.until_back(part, pid)


@pytest.mark.slow
@pytest.mark.parametrize("drain_seconds", [0])
async def test_a_stopped_part_without_time_says_so_in_its_streams(serving: Serving) -> None:
    for part in ("gateway", "loader-tiny"):
        pid = serving.pid(part)
        told = await _cut_off(serving, part)
        event = json.loads(told.rstrip().rpartition("\n\n")[2].removeprefix("data: "))
        assert (event["error"]["code"], event["error"]["type"]) == ("stopping", "server_error")
        await serving.until_back(part, pid)


async def _cut_off(serving: Serving, part: str) -> str:
    """Stop a part while an engine that stands still has a stream open; return what came of it."""
    pid, engine = serving.pid(part), psutil.Process(serving.pid("loader-tiny")).children(recursive=True)

    async def stop() -> None:
        for process in engine:
            process.suspend()
        os.kill(pid, signal.SIGTERM)

    try:
        return await serving.stream(stop)
    finally:
        for process in engine:
            process.resume()
