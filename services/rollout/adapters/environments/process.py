"""A worker process of an installed environment, seen from the service: several calls at a time."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil

from mint_common.runtime.frames import frame, read_frame
from services.rollout.adapters.workers.process import WorkerEndedError
from services.rollout.core.installed_environment import VENV, InstalledEnvironment

MAX_FRAME_BYTES = 16 << 20
_READY_SECONDS = 120.0
_EXIT_SECONDS, _DEATH_SECONDS = 1.0, 5.0
_TAIL_BYTES = 500
_WORKER = Path(__file__).parent / "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """The limits of a worker; ``is_confined`` is off where the kernel refuses namespaces."""

    memory_bytes: int
    is_confined: bool


class EnvironmentRefused(Exception):
    """The environment refuses a call; ``of`` says what is wrong: args, split, environment."""

    def __init__(self, problem: str, of: str) -> None:
        super().__init__(problem)
        self.of = of


class EnvironmentWorker:
    """A process that runs an environment's code.

    ``ended`` is set when it has ended, and ``problem`` says why; ``calls_at_end`` counts the calls that it
    ended with.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        errors: IO[bytes],
        folder: str,
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._errors = errors
        self._folder = folder
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = iter(range(1, sys.maxsize))
        self._reading = asyncio.ensure_future(self._read())
        self.ended = asyncio.Event()
        self.problem = ""
        self.calls_at_end = 0
        self.calls_done = 0

    @property
    def calls(self) -> int:
        """Return how many calls it has now."""
        return len(self._calls)

    def begin(self, call: Mapping[str, Any]) -> tuple[int, "asyncio.Future[Any]"]:
        """Send a call; return its number and its answer to come.

        The answer raises EnvironmentRefused, WorkerEndedError. ``calls`` counts it until it is there.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have no reader
        if self.ended.is_set():
            answer.set_exception(WorkerEndedError(self.problem))
            return number, answer
        data = json.dumps({"id": number, **call}).encode()
        if len(data) > MAX_FRAME_BYTES:
            problem = f"a call has {len(data)} bytes, the limit is {MAX_FRAME_BYTES}"
            answer.set_exception(EnvironmentRefused(problem, "args"))
            return number, answer
        self._calls[number] = answer
        self._writer.write(frame(data))
        return number, answer

    def cancel(self, number: int) -> None:
        """Ask the worker to end a call."""
        if not self.ended.is_set():
            self._writer.write(frame(json.dumps({"do": "cancel", "id": number}).encode()))

    async def ready(self, setup: Mapping[str, str]) -> None:
        """Wait until it answers. Raises WorkerEndedError with what it told, TimeoutError."""
        self._writer.write(frame(json.dumps(setup).encode()))
        async with asyncio.timeout(_READY_SECONDS):
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._calls[0] = answer
            await answer

    def kill(self, problem: str) -> None:
        """Kill its processes; their calls raise WorkerEndedError with the problem. Idempotent."""
        self.problem = self.problem or problem
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill its processes, wait for their end, and remove its folder. Idempotent."""
        self.kill("it was ended")
        self._writer.close()
        self._reading.cancel()
        await self._wait(_DEATH_SECONDS)
        self._fail_all()
        self._errors.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def usage(self, *, most_bytes: int) -> tuple[int, int]:
        """Return the memory of its processes in bytes, and their number. It reads files: call it in a thread.

        What processes share counts for each of them as long as the sum is below ``most_bytes``, else once.
        """
        processes: list[psutil.Process] = []
        with suppress(psutil.Error):
            first = psutil.Process(self._process.pid)
            processes = [first, *first.children(recursive=True)]
        found = sum(_bytes_of(each, is_shared_once=False) for each in processes)
        if found > most_bytes:
            found = sum(_bytes_of(each, is_shared_once=True) for each in processes)
        return found, len(processes)

    async def _read(self) -> None:
        """Give answers to their calls until the worker ends, or says what no worker of ours would."""
        with suppress(EOFError, msgspec.DecodeError, TypeError, KeyError, AttributeError):
            while True:
                told = msgspec.json.decode(await read_frame(self._reader, max_bytes=MAX_FRAME_BYTES))
                self._take(told)
        status = await self._wait(_EXIT_SECONDS)
        if status is None:
            self.kill("")
            status = await self._wait(_DEATH_SECONDS)
        self.problem = self.problem or self._how_it_ended(status)
        self._fail_all()

    async def _wait(self, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, seconds)
        return None

    def _take(self, told: dict[str, Any]) -> None:
        if "problem" in told:
            self.problem = str(told["problem"])[:_TAIL_BYTES]
            raise EOFError
        answer = self._calls.pop(0 if "ready" in told else told["id"])
        self.calls_done += 1
        if answer.done():
            return  # its caller has left
        if "error" in told:
            answer.set_exception(EnvironmentRefused(str(told["error"])[:4000], str(told["of"])))
        else:
            answer.set_result(told.get("answer"))

    def _fail_all(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self.calls_at_end = len(self._calls)
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(WorkerEndedError(self.problem))
        self._calls.clear()

    def _how_it_ended(self, status: int | None) -> str:
        if status is None:
            return "its process does not answer"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _TAIL_BYTES))
        tail = self._errors.read(_TAIL_BYTES).decode(errors="replace").strip()
        signalled = -status if status < 0 else status - 128
        how = f"ended by signal {signalled}" if signalled > 0 else f"ended with status {status}"
        return f"its process {how}" + (f"; it wrote: {tail}" if tail else "")


def _bytes_of(process: psutil.Process, *, is_shared_once: bool) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss if is_shared_once else process.memory_info().rss)
    return 0


async def start_environment_worker(
    environment: InstalledEnvironment, folder: Path, confinement: Confinement, *, door: str, homes: Path
) -> EnvironmentWorker:
    """Start a worker of an environment in ``folder``, whose clients find the model through ``door``.

    It has a folder of its own below ``homes`` until it ends.

    Raises WorkerEndedError, TimeoutError, OSError. The event loop's thread starts it: its death signal is
    bound to the thread that started it.
    """
    plan, errors = await asyncio.to_thread(_prepare, environment, folder, confinement, door, homes)
    home = plan["folder"]
    try:
        process, connection = _spawn(plan, errors)
    except BaseException:
        errors.close()
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
        raise
    worker = EnvironmentWorker(process, await asyncio.open_connection(sock=connection), errors, home)
    setup = {
        "kind": environment.kind,
        "package": environment.package,
        "entry": environment.entry,
        "door": door,
    }
    try:
        await worker.ready(setup)
    except BaseException:
        await worker.end()
        raise
    return worker


def _prepare(
    environment: InstalledEnvironment, folder: Path, confinement: Confinement, door: str, homes: Path
) -> tuple[dict[str, Any], IO[bytes]]:
    """Return the plan of `launch`, with a folder of the worker's own, and a file for what it writes."""
    venv = folder / VENV
    python = venv / "bin/python"
    if not Path(door).is_socket():
        raise OSError("the socket of the model is not there yet")
    plan = {
        "python": str(python),
        "shim": str(_WORKER / "shim.py"),
        "parent": os.getpid(),
        "read": [str(venv), *map(str, _installation(venv)), str(_WORKER), door],
        "folder": tempfile.mkdtemp(dir=homes),
        "memory_bytes": confinement.memory_bytes,
        "network": environment.network,
        "confined": confinement.is_confined,
    }
    return plan, tempfile.TemporaryFile()


def _installation(venv: Path) -> list[Path]:
    """Return where the Python of a venv is installed: its folders, and the links on the way to it."""
    python = venv / "bin/python"
    links = []
    while python.is_symlink():
        python = python.parent / python.readlink()
        links.append(python)
    home = re.search(r"^home *= *(.+)$", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
    folders = [python.resolve().parents[1], *([Path(home.group(1)).parent] if home else [])]
    return [*(each for each in folders if any(each.glob("lib/python3*"))), *links]


def _spawn(plan: Mapping[str, Any], errors: IO[bytes]) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Start a worker's process; return it and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        told = json.dumps({**plan, "descriptor": theirs.fileno()})
        try:
            # Not asyncio's: cancelled while it starts a process, it leaks the process.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WORKER / "launch.py"), told],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={},
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return process, ours
