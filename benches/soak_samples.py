"""The samples that bench soak takes: memory, files and threads of parts, rows of tables, sizes of folders."""

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benches.report import Interval
from benches.stacks import BenchStack

FOLDERS = ("blobs", "cache", "log", "nats", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """The least squares line of a quantity over operations: its slope per 1,000, and the samples."""

    per_1000: float
    interval: Interval
    low: float
    median: float
    high: float
    n: int

    @property
    def is_flat(self) -> bool:
        """Return whether all samples are equal."""
        return self.low == self.high


def fit_slope(operations: Sequence[float], values: Sequence[float]) -> Slope:
    """Return the slope of some samples, each taken when so many operations had been done."""
    slope, _ = statistics.linear_regression(operations, values)
    mean_x, mean_y = statistics.fmean(operations), statistics.fmean(values)
    residuals = [y - mean_y - slope * (x - mean_x) for x, y in zip(operations, values, strict=True)]
    spread = sum((x - mean_x) ** 2 for x in operations)
    error = math.sqrt(sum(each**2 for each in residuals) / max(1, len(values) - 2) / spread)
    return Slope(
        per_1000=1000 * slope,
        interval=(1000 * (slope - 1.96 * error), 1000 * (slope + 1.96 * error)),
        low=min(values),
        median=statistics.median(values),
        high=max(values),
        n=len(values),
    )


async def sample(stack: BenchStack, tables: "asyncpg.Connection[asyncpg.Record]") -> dict[str, float]:
    """Return every quantity now, by its kind and name, such as ``memory trainer-tiny``."""
    run = stack.folder.read_run()
    assert run is not None
    found: dict[str, float] = {}
    for part in run.parts:
        found |= _part(part, stack.pids(part))
    for folder in FOLDERS:
        found |= _folder(folder, stack.folder.root / folder)
    return found | await _rows(tables)


def _part(name: str, pids: Sequence[int]) -> dict[str, float]:
    memory = files = threads = 0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            process = psutil.Process(pid)
            memory += process.memory_full_info().uss  # what is shared would count once for each process
            files += process.num_fds()
            threads += process.num_threads()
    return {f"memory {name}": memory / 1e6, f"descriptors {name}": files, f"threads {name}": threads}


def _folder(name: str, root: Path) -> dict[str, float]:
    sizes: list[int] = []
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it has just been removed
            sizes += [path.stat().st_size] if path.is_file() else []
    return {f"files {name}": len(sizes), f"size {name}": sum(sizes) / 1e6}


async def _rows(tables: "asyncpg.Connection[asyncpg.Record]") -> dict[str, float]:
    named = await tables.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
    return {f"rows {name}": await tables.fetchval(f"SELECT count(*) FROM {name}") for (name,) in named}
