"""The check of rows in a process of its own: a large file takes seconds of a core."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from mint_common.datasets import DatasetReport, Repeats
from mint_common.errors import Unavailable

SECONDS = 600.0
_COMMAND = (sys.executable, "-I", "-m", "mint_common.datasets")

T = TypeVar("T")


class RowsCheckProcess:
    """The process ends with the call, also a cancelled one. Raises Unavailable when it takes too long."""

    async def check(self, path: Path) -> DatasetReport:
        """Return the report about a file."""
        try:
            async with asyncio.timeout(SECONDS):
                with await asyncio.to_thread(path.open, "rb") as file:
                    async with _started(file) as process:
                        return await _answer(process, DatasetReport)
        except (OSError, TimeoutError) as error:
            raise Unavailable(what="the check of rows", problem=type(error).__name__) from error

    async def shared(
        self, training: AsyncIterator[bytes], validation: AsyncIterator[bytes], *, validation_bytes: int
    ) -> Repeats:
        """Return the rows that two files share."""
        try:
            async with _started(PIPE, str(validation_bytes)) as process:
                assert process.stdin is not None, "it was started with a pipe"
                for file in (validation, training):
                    async for part in file:
                        process.stdin.write(part)
                        await process.stdin.drain()
                process.stdin.close()
                return await _answer(process, Repeats)
        except OSError as error:
            raise Unavailable(what="the check of rows", problem=type(error).__name__) from error


@asynccontextmanager
async def _started(stdin: IO[bytes] | int, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, *arguments, stdin=stdin, stdout=PIPE, stderr=DEVNULL, env={}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.communicate())  # wait() alone hangs on a full pipe in Python 3.11


async def _answer(process: Process, shape: type[T]) -> T:
    """Return the answer of a process at the end of its input. Raises Unavailable."""
    answer, _ = await process.communicate()
    if process.returncode:
        raise Unavailable(what="the check of rows", problem=f"it ended with {process.returncode}")
    return msgspec.json.decode(answer, type=shape)
