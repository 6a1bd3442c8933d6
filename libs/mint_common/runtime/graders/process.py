"""Source in a Python of its own: a confined process for each call, forked by a server of ours.

It has numpy and most of the standard library that only computes, and takes some milliseconds more a call than
`MontySandbox`.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from mint_common.graders import GradedSample, GraderFault
from mint_common.runtime.graders.fork_server import READY, TIMED_OUT
from mint_common.runtime.graders.python import call_json, reward_of, runtime_fault, sample_fields

_MODULE = "mint_common.runtime.graders.fork_server"
_MAX_ANSWER_BYTES = 64 << 10
_READY_SECONDS = 60.0
_GRACE_SECONDS = 5.0
"""Time that a fork server has, beyond a call's limit, to end the call."""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""One thread, or nothing could be forked; the same order of sets every time."""


class SandboxUnavailable(Exception):
    """Processes cannot be confined here; the text is a sentence."""


class _Ended(Exception):
    """The fork server has ended."""


class _Answer(msgspec.Struct):
    value: str = ""
    error: str | None = None


class ProcessSandbox:
    """See `PythonSandbox`. A fork server starts when all that run are busy, up to ``workers``."""

    def __init__(self, *, workers: int, seconds: float, memory_bytes: int) -> None:
        self._seconds = seconds
        self._servers = [_ForkServer(seconds, memory_bytes) for _ in range(workers)]
        self._idle: queue.LifoQueue[_ForkServer] = queue.LifoQueue()
        for server in self._servers:
            self._idle.put(server)

    def start(self) -> None:
        """Start the first server. Raises SandboxUnavailable."""
        self._servers[-1].start()

    def check(self, source: str) -> None:
        """Run a source without grading."""
        self._ask({"source": source})

    def grade(self, source: str, sample: GradedSample) -> float:
        """Return the result of the source's function."""
        call = {"source": source, "sample": sample_fields(sample), "item": sample.item}
        return reward_of(self._ask(call))

    def close(self) -> None:
        """End all processes."""
        for server in self._servers:
            server.close()

    def _ask(self, call: Mapping[str, Any]) -> str:
        request = call_json(call)
        server = self._idle.get()
        try:
            answer, is_over = server.ask(request)
        except (_Ended, SandboxUnavailable, OSError) as error:
            raise GraderFault("python_grader_server_error", f"the sandbox does not run: {error}") from error
        finally:
            self._idle.put(server)
        if is_over:
            raise runtime_fault(f"the source took more than {self._seconds:g} s")
        if not answer:
            raise runtime_fault("the source ended its process, or needed more than its memory or time")
        try:
            found = msgspec.json.decode(answer, type=_Answer)
        except msgspec.DecodeError as error:
            raise runtime_fault("the source wrote an invalid answer") from error
        if found.error is not None:
            raise runtime_fault(found.error)
        return found.value


class _ForkServer:
    """The process of `fork_server`, started when it is needed; one call at a time."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    def ask(self, request: bytes) -> tuple[bytes, bool]:
        """Return the answer of a child, and whether its time was over. Raises OSError, _Ended."""
        control = self.start()
        try:
            ours, theirs = socket.socketpair()
            with ours:
                ours.settimeout(self._seconds + _GRACE_SECONDS)
                with theirs:
                    socket.send_fds(control, [b"c"], [theirs.fileno()])
                answer = _exchange(ours, request)
            ended = control.recv(1)
        except OSError as error:
            self._end()
            raise _Ended(type(error).__name__) from error
        if not ended:
            self._end()
            raise _Ended("its process has ended")
        return answer, ended == TIMED_OUT

    def start(self) -> socket.socket:
        """Start the process unless it runs; return its socket. Raises SandboxUnavailable, _Ended, OSError."""
        with self._changing:
            if self._is_closed:
                raise _Ended("the service is stopping")
            if self._control is None:
                process, control = _spawn(self._seconds, self._memory_bytes)
                if problem := _problem(control):
                    _end(process, control)
                    raise SandboxUnavailable(problem)
                control.settimeout(self._seconds + _GRACE_SECONDS)
                self._process, self._control = process, control
            return self._control

    def close(self) -> None:
        """End the process for good. Idempotent."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        with self._changing:
            if self._process is not None and self._control is not None:
                _end(self._process, self._control)
            self._process = self._control = None


def _spawn(seconds: float, memory_bytes: int) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_READY_SECONDS)
    given = [str(theirs.fileno()), str(seconds), str(memory_bytes)]
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", _MODULE, *given],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def _problem(control: socket.socket) -> str:
    """Wait until a new fork server is ready; return why it is not."""
    try:
        told = control.recv(4096)
    except OSError as error:
        return f"Its process did not become ready: {type(error).__name__}."
    return "" if told == READY else told.removeprefix(READY).decode() or "Its process has ended."


def _end(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    control.close()


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send a request; return the answer, or the beginning of a longer one; none of a child that ended."""
    answer = bytearray()
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while len(answer) <= _MAX_ANSWER_BYTES and (part := connection.recv(_MAX_ANSWER_BYTES)):
            answer += part
    return bytes(answer)
