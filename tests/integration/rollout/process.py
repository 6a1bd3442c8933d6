"""The rollout service as a process that tests start, ask and kill."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from mint_common.ids import JobId
from mint_common.testing.factories import JOB, TENANT
from services.standalone.adapters.launch import free_port
from tests.integration.rollout.neighbours import TOKEN, Neighbours

READY_SECONDS = 180.0
ROOT = Path(__file__).parents[3]


@dataclass
class Rollout:
    """A rollout process that a test may kill and start again."""

    env: dict[str, str]
    url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.rollout"],
                env=self.env,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise RuntimeError(f"rollout did not start:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """Send SIGKILL and reap."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def make_rollout(folder: Path, *, nats_url: str, dsn: str, neighbours: Neighbours) -> Rollout:
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MINT_")},
        "MINT_NATS_URL": nats_url,
        "MINT_POSTGRES_DSN": dsn,
        "MINT_BLOBS_URL": f"file://{folder / 'blobs'}",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_PEERS_REGISTRY_URL": neighbours.url,
        "MINT_PEERS_LOADER_URLS": neighbours.url,
        "MINT_PEERS_TRAINER_URLS": neighbours.url,
        "MINT_ROLLOUT_HTTP_PORT": str(port),
        "MINT_ROLLOUT_STALL_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    return Rollout(env=env, url=f"http://127.0.0.1:{port}", log=folder / "rollout.log")


async def until(condition: Callable[[], bool], *, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def show(client: httpx.AsyncClient, job_id: JobId = JOB) -> dict[str, object]:
    answer = await client.get(f"/internal/tenants/{TENANT}/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, object] = answer.json()
    return job
