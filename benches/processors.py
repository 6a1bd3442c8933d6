"""Where the processor's time of a serving stack goes."""

import os
import time
from collections.abc import Mapping

import psutil

from benches.serving import LOADER
from benches.stacks import BenchStack

CORES = os.cpu_count() or 1


def processor_seconds(stack: BenchStack) -> Mapping[str, float]:
    """Return what each part has taken so far; a part's own children count with it, but the loader's two."""
    seconds = {
        part: sum(map(_taken, stack.pids(part))) for part in ("gateway", "registry", "postgres", "nats")
    }
    loader, *children = stack.pids(LOADER)
    engine = [pid for pid in children if "EngineCore" in psutil.Process(pid).name()]
    builder = [pid for pid in children if any("builder" in word for word in psutil.Process(pid).cmdline())]
    return seconds | {
        "loader": _taken(loader),
        "engine": sum(map(_taken, engine)),
        "builder": sum(map(_taken, builder)),
    }


def tree_seconds(pid: int) -> float:
    """Return what a process and its living descendants have taken so far, to the nanosecond."""
    process = psutil.Process(pid)
    # clock_getcpuclockid(3), which Python has for threads alone: the kernel's clock of a whole process.
    clocks = (~each.pid << 3 | 2 for each in (process, *process.children(recursive=True)))
    return sum(map(time.clock_gettime, clocks))


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each part has taken in between."""
    return {part: after[part] - before[part] for part in after}


def _taken(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
