"""The check of rows in a process of its own: a large file takes seconds of a core."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from mint_common.datasets import DatasetReport
from mint_common.errors import Unavailable

PROCESSES = 2
SECONDS = 600.0
_COMMAND = (sys.executable, "-I", "-m", "mint_common.datasets")


class RowsCheckProcesses:
    """See `services.gateway.ports.files.RowsCheck`. At most `PROCESSES` at a time; others wait."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="rows-check")

    async def check(self, path: Path) -> DatasetReport:
        """Return what a file is."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _check, path)

    async def close(self) -> None:
        """Start no more checks."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


def _check(path: Path) -> DatasetReport:
    try:
        with path.open("rb") as file:
            done = subprocess.run(
                _COMMAND, stdin=file, capture_output=True, env={}, timeout=SECONDS, check=True
            )
    except (subprocess.SubprocessError, OSError) as error:
        raise Unavailable(what="the check of rows", problem=type(error).__name__) from error
    return msgspec.json.decode(done.stdout, type=DatasetReport)
