"""What a bench computes on, by `--device`, and how work is timed there."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benches.machine import DeviceName
from services.trainer.adapters.model.placing import place
from services.trainer.core.placement import BaseDType, Checkpointing, Placement
from services.trainer.core.ranks import ALONE


def placement_on(
    device: DeviceName, *, dtype: BaseDType = "float32", checkpointing: Checkpointing = "off"
) -> Placement:
    """Return where a trainer's base goes. Raises SettingInvalid where there is no such device."""
    return place(device=device, dtype=dtype, checkpointing=checkpointing, memory_share=None, process=ALONE)


def one_thread() -> None:
    """Compute on one core, and look nothing up on a hub."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    torch.set_num_threads(1)


def work_seconds(device: DeviceName, work: Callable[[], object]) -> float:
    """Return CPU seconds, which a busy machine leaves as they are; on a GPU, seconds until it is done."""
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(device: DeviceName) -> int:
    """Return the most memory that this process has taken on the device."""
    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
