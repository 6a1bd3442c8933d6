"""Stacks of benches: real parts as processes, in a folder of their own that is removed afterwards."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benches.bases import base_folder
from benches.machine import DeviceName
from mint_common.client.http import InternalHttp
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import postgres_dsn
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import SERVICES, BaseAt
from services.standalone.settings import read_standalone_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchStack:
    """A stack whose parts are ready, and the ways to them; ``loader-BASE`` and ``trainer-BASE`` are parts."""

    folder: StateFolder
    gateway_url: str
    api_key: str

    @property
    def dsn(self) -> str:
        """Return how to connect to its Postgres."""
        return postgres_dsn(self.folder.root / "postgres", self.port("postgres"))

    def port(self, part: str) -> int:
        """Return where a part listens."""
        return self.folder.read_state().ports[part]

    def url(self, part: str) -> str:
        """Return a part's address."""
        return f"http://127.0.0.1:{self.port(part)}"

    def http(self, part: str) -> InternalHttp:
        """Return a client of a part's internal routes, to be closed."""
        return InternalHttp(self.url(part), token=self.folder.secrets().internal_token)

    def pids(self, part: str) -> list[int]:
        """Return a part's process, then its children: a loader's are the builder and the engine."""
        run = self.folder.read_run()
        assert run is not None
        pid = run.parts[part].pid
        assert pid is not None
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]

    def rss_bytes(self, *parts: str) -> int:
        """Return the resident memory of some parts."""
        found = 0
        for pid in (pid for part in parts for pid in self.pids(part)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                found += psutil.Process(pid).memory_info().rss
        return found


@contextlib.asynccontextmanager
async def open_bench_stack(
    services: Collection[str] = SERVICES,
    *,
    base: str = "tiny",
    at: BaseAt | None = None,
    overrides: Mapping[str, str] | None = None,
) -> AsyncIterator[BenchStack]:
    """Start some services over a base, or one ``at`` a folder; ``overrides`` are MINT_* variables."""
    with scratch_folder() as root:
        folder = StateFolder(root=root / "state")
        folder.create()
        environ = {"MINT_TELEMETRY_LOG_LEVEL": "WARNING"}
        settings = read_standalone_settings({**os.environ, **environ, **(overrides or {})})
        place = at or BaseAt(name=base, folder=str(base_folder(base)))
        opening = open_stack(folder, [place], port=free_port(), settings=settings, services=services)
        async with opening as stack:
            await stack.supervisor.all_ready()
            yield BenchStack(folder=folder, gateway_url=stack.gateway_url, api_key=stack.api_key)


def shared_gpu(device: DeviceName) -> dict[str, str]:
    """Return the settings of a trainer and an engine that share a GPU; none on a CPU."""
    if device == "cpu":
        return {}
    return {
        "MINT_TRAINER_DEVICE": "cuda",
        "MINT_TRAINER_MEMORY_SHARE": "0.4",
        "MINT_LOADER_GPU_MEMORY_UTILIZATION": "0.4",
    }


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that other users may enter (Postgres does not run as root), and remove it."""
    root = Path(tempfile.mkdtemp(prefix="mint-bench-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
