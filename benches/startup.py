"""Times a new user's first commands: `mint up --base tiny` to a first answer, and `mint demo --base tiny`.

The alternative in the same run is vLLM's own server on the same base with the loader's engine arguments,
started alone: no database, no bus, no trainer. Each start is of a new state folder.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benches.bare_vllm import EngineSize, open_bare_vllm
from benches.bases import TINY
from benches.report import Report, Row, make_row
from services.standalone.adapters.launch import free_port

STARTS = 3
_MINT = (sys.executable, "-m", "mint_launcher")
_CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 1}
_SIZE = EngineSize(slots=8, host=64)
_SECONDS = 600.0


def run() -> Report:
    """Measure."""
    ours, theirs, demos = [], [], []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory(prefix="mint-bench-startup-") as folder:
            ours.append(up_to_answer(Path(folder)))
            theirs.append(asyncio.run(vllm_to_answer(Path(folder))))
            demos.append(demo(Path(folder)))
    return Report(
        bench="startup", rows=rows(ours, theirs, demos), draw=lambda figure: draw(figure, ours, theirs)
    )


def up_to_answer(folder: Path) -> float:
    """Return the seconds from `mint up` to its first answer."""
    port = free_port()
    command = (*_MINT, "up", "--base", "tiny", "--dir", folder / "stack", "--port", str(port))
    began = time.monotonic()
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
        try:
            _until_answered(f"http://127.0.0.1:{port}", folder / "stack/api_key")
            return time.monotonic() - began
        finally:
            process.terminate()
            process.wait(120)


def _until_answered(url: str, key: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        headers = {"authorization": f"Bearer {key.read_text().strip()}"} if key.exists() else {}
        try:
            asked = httpx.post(f"{url}/v1/chat/completions", json=_CHAT, headers=headers, timeout=60)
        except httpx.TransportError:
            pass
        else:
            if asked.is_success:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no answer after {_SECONDS} s")


async def vllm_to_answer(folder: Path) -> float:
    """Return the seconds from the start of vLLM's own server to its first answer."""
    began = time.monotonic()
    async with open_bare_vllm(_SIZE, folder / "vllm.log") as url, httpx.AsyncClient(timeout=60) as client:
        models = (await client.get(f"{url}/v1/models")).json()["data"]
        answer = await client.post(f"{url}/v1/chat/completions", json={**_CHAT, "model": models[0]["id"]})
        answer.raise_for_status()
        return time.monotonic() - began


def demo(folder: Path) -> float:
    """Return the seconds of `mint demo`."""
    began = time.monotonic()
    command = (*_MINT, "demo", "--base", "tiny", "--out", folder / "demo")
    subprocess.run(command, env=_environment(), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def rows(ours: Sequence[float], theirs: Sequence[float], demos: Sequence[float]) -> list[Row]:
    """Return the rows."""
    ratios = [mine / alone for mine, alone in zip(ours, theirs, strict=True)]
    how = f"new state folders; the base {TINY.name}, one token"
    return [
        make_row("first_answer_seconds", ours, unit="s", goal=None, better="lower", how=how),
        make_row("vllm_first_answer_seconds", theirs, unit="s", goal=None, better="lower", how="vLLM alone"),
        make_row(
            "first_answer_over_vllm",
            ratios,
            unit="x",
            goal=None,
            better="lower",
            limit=1.0,
            how="`mint up` starts five services, a database and a bus beside the engine, on the same cores",
        ),
        make_row(
            "demo_seconds", demos, unit="s", goal=None, better="lower", how="`mint demo --base tiny`, whole"
        ),
    ]


def draw(figure: Any, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Draw the starts side by side."""
    axes = figure.subplots()
    axes.plot(range(1, len(ours) + 1), ours, "o-", label="mint up")
    axes.plot(range(1, len(theirs) + 1), theirs, "o-", label="vLLM alone")
    axes.set_xlabel("start")
    axes.set_ylabel("seconds to the first answer")
    axes.set_ylim(bottom=0)
    axes.legend()
