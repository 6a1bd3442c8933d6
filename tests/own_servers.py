"""Postgres and NATS servers that a test or a bench starts, kills and starts again."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import psutil

from services.standalone.adapters.launch import Launch, free_port
from services.standalone.adapters.nats import nats_launch
from services.standalone.adapters.postgres import postgres_launch, prepare_postgres
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.readiness import probe

READY_SECONDS = 180.0


class RunningServer:
    """A server process that a test may kill and start again at the same address."""

    def __init__(self, launch: Launch, address: str, log: Path) -> None:
        self.launch = launch
        self.address = address
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.launch.argv,
                env={**os.environ, **self.launch.env},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.launch.folder,
                preexec_fn=child_setup(self.launch.run_as, parent=None),  # noqa: PLW1509  # one capability stays
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.launch.name} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Send SIGKILL to the server and all that it started, and reap.

        Postgres' backends lead sessions of their own: killed with the postmaster alone, they answer on for a
        moment.
        """
        assert self.process is not None
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        os.killpg(self.process.pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def stop(self) -> None:
        """Ask to stop, then insist."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.launch.stop_signal)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def _is_ready(self) -> bool:
        """Ask in a thread of its own: the test that waits may run an event loop."""

        async def ask() -> bool:
            async with httpx.AsyncClient(trust_env=False, verify=False) as http:
                return await probe(self.launch, http)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, ask()).result()


def make_postgres(folder: Path) -> RunningServer:
    """Prepare a Postgres server (not started)."""
    port = free_port()
    prepare_postgres(folder)
    launch = postgres_launch(folder, port)
    # Only a power cut loses what is not flushed; a killed server does not.
    launch = replace(launch, argv=(*launch.argv, "-c", "fsync=off"))
    return RunningServer(launch, launch.ready_dsn, folder / "log")


def make_nats(folder: Path) -> RunningServer:
    """Prepare a NATS server (not started)."""
    launch = nats_launch(folder, free_port())
    return RunningServer(launch, launch.ready_bus, folder / "log")
