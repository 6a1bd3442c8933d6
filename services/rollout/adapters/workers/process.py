"""A worker process, seen from the service."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from mint_common.runtime.frames import frame, read_frame
from services.rollout.adapters.workers.wire import MAX_ANSWER_BYTES, WorkerSetup

_MODULE = "services.rollout.adapters.workers.child"
_READY_SECONDS = 60.0
_DEATH_SECONDS = 5.0


class WorkerEndedError(Exception):
    """The process has ended; the text says how."""


class WorkerProcess:
    """A process that takes one call at a time. ``last_task`` is the task whose code it has loaded."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.last_task = ""
        self.leaving = asyncio.Event()

    @property
    def pid(self) -> int:
        """Return the process's id, which is its group's id too."""
        return self._process.pid

    async def ask(self, call: bytes) -> bytes:
        """Return the answer to a call.

        Raises WorkerEndedError. A cancelled call leaves the worker unusable.
        """
        self._writer.write(frame(call))
        try:
            return await read_frame(self._reader, max_bytes=MAX_ANSWER_BYTES)
        except EOFError as error:
            raise WorkerEndedError(await self._how_it_ended()) from error

    async def end(self) -> None:
        """Kill its process group and wait for its end. Idempotent."""
        self._writer.close()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, _DEATH_SECONDS)

    async def _how_it_ended(self) -> str:
        try:
            status = await asyncio.to_thread(self._process.wait, _DEATH_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process does not answer"
        return f"its process was ended by signal {-status}" if status < 0 else "its process ended by itself"


async def start_worker(families: Mapping[str, str], *, memory_bytes: int) -> WorkerProcess:
    """Start a worker and wait until it is ready. Raises WorkerEndedError, TimeoutError, OSError.

    The event loop's thread starts it: its death signal is bound to the thread that started it.
    """
    process, connection = _spawn()
    try:
        reader, writer = await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        process.kill()
        process.wait()
        raise
    worker = WorkerProcess(process, reader, writer)
    setup = msgspec.msgpack.encode(WorkerSetup(families=families, memory_bytes=memory_bytes))
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await worker.ask(setup)
    except BaseException:
        await worker.end()
        raise
    return worker


def _spawn() -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Start a worker's process; return it and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # Not asyncio's: cancelled while it starts a process, it leaks the process.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith("MINT_")},
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return process, ours
