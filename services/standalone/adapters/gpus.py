"""The GPUs of this machine, and whether the stack computes on them."""

import importlib.metadata
import shutil
import subprocess

from services.standalone.core.findings import Gpu

CUDA_ENGINE = "vllm"
"""The package of the engine's CUDA build."""
_DRIVER_SECONDS = 20


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver reports; none without the driver."""
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


def usable_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs for the parts of a stack: none without a CUDA build."""
    try:
        importlib.metadata.version(CUDA_ENGINE)
    except importlib.metadata.PackageNotFoundError:
        return ()
    return find_gpus()


def _gpu(line: str) -> Gpu | None:
    """Parse a line of nvidia-smi; a GPU with shared memory has ``[N/A]`` instead of MiB."""
    fields = [field.strip() for field in line.split(",")]
    try:
        index, name, whole, free, driver = fields
        memory, left = int(whole) << 20, int(free) << 20
        return Gpu(index=int(index), name=name, memory_bytes=memory, free_bytes=left, driver=driver)
    except ValueError:
        return None
