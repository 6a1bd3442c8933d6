"""Services as processes that tests start, kill and start again, and whether processes have ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

READY_SECONDS = 300.0
END_SECONDS = 60.0
ROOT = Path(__file__).parents[1]
SERVICES = ("gateway", "loader", "registry", "rollout", "trainer")


@dataclass
class ServiceProcess:
    """A service that a test may kill and start again at the same address.

    ``environ`` may have the variables of other services too: each gets its own and the shared ones, and of
    the tests' environment what is not MinT's. ``launch`` are the interpreter's arguments before the module.
    """

    name: str
    environ: Mapping[str, str]
    log: Path
    launch: Sequence[str] = ("-m",)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.environ[f'MINT_{self.name.upper()}_HTTP_PORT']}"

    @property
    def argv(self) -> list[str]:
        """Return how it is called."""
        return [sys.executable, *self.launch, f"services.{self.name}"]

    @property
    def env(self) -> dict[str, str]:
        """Return its environment."""
        others = tuple(f"MINT_{each.upper()}_" for each in SERVICES if each != self.name)
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}
        return outer | {name: value for name, value in self.environ.items() if not name.startswith(others)}

    @property
    def pid(self) -> int:
        """Return the process."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Return whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start and wait until ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + READY_SECONDS
        # Certificates, which plain HTTP does not need, take 5 ms to load.
        with httpx.Client(trust_env=False, verify=False) as http:
            while time.monotonic() < deadline and self.is_running:
                try:
                    if http.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-4000:]}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL and reap."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(END_SECONDS)

    def stop(self) -> int:
        """Send SIGTERM, kill it if it stays, and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        """Run it until the block ends; the block starts when it is ready."""
        try:
            await asyncio.to_thread(self.start)
            assert self.process is not None
            yield self.process
        finally:
            await asyncio.to_thread(self.stop)


def has_ended(pid: int) -> bool:
    """Return whether no such process runs."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def gives_way(pid: int) -> bool:
    """Return whether a process has a lower priority than this one, within its session and as a session."""
    group = Path(f"/proc/{pid}/autogroup")  # which not every kernel has
    return (
        os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        and os.sched_getscheduler(pid) == os.SCHED_BATCH
        and os.getsid(pid) == pid
        and (not group.exists() or int(group.read_text().split()[-1]) > 0)
    )


async def until_ended(processes: Iterable[psutil.Process], *, seconds: float = END_SECONDS) -> None:
    """Wait until none of these runs. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        for process in processes:
            while process.is_running() and not has_ended(process.pid):
                await asyncio.sleep(0.02)
