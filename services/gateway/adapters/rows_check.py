"""The check of rows in a process of its own: a large file takes seconds of a core."""

import asyncio
import sys
from pathlib import Path

import msgspec

from mint_common.datasets import DatasetReport
from mint_common.errors import Unavailable

SECONDS = 600.0
_COMMAND = (sys.executable, "-I", "-m", "mint_common.datasets")


class RowsCheckProcess:
    """See `services.gateway.ports.files.RowsCheck`. The process ends with the call, also a cancelled one."""

    async def check(self, path: Path) -> DatasetReport:
        """Return what a file is."""
        try:
            async with asyncio.timeout(SECONDS):
                answer = await _answer(path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(what="the check of rows", problem=type(error).__name__) from error
        return msgspec.json.decode(answer, type=DatasetReport)


async def _answer(path: Path) -> bytes:
    with await asyncio.to_thread(path.open, "rb") as file:
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, stdin=file, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={}
        )
    try:
        answer, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode:
        raise Unavailable(what="the check of rows", problem=f"it ended with {process.returncode}")
    return answer
