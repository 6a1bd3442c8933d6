"""A process that forks a confined child for each call, with the modules of graders imported before.

It never sees a call: a child is given the service's end of a socket, gives everything else up, and reads its
call only then. So no child finds another call's data in its memory, and only children run users' source.
"""

import importlib
import json
import linecache
import math
import numbers
import os
import random
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mint_common.runtime.graders.confinement import ConfinementUnavailable, confine

MODULES = (
    *("abc", "ast", "base64", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "csv"),
    *("dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq"),
    *("html", "html.parser", "io", "itertools", "json", "math", "numbers", "operator", "random", "re"),
    *("statistics", "string", "struct", "textwrap", "time", "typing", "unicodedata", "urllib.parse", "zlib"),
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_16", "encodings.utf_8_sig"),
    *("numpy", "numpy.fft", "numpy.linalg", "numpy.random"),
)
"""Modules that a source may import; a confined process cannot import further ones."""

READY = b"r"
"""The first word to the service; what follows says why nothing can be confined here."""
TIMED_OUT = b"t"
ENDED = b"e"
NAME = "grader.py"
_CALL = 3
"""The descriptor of a child's call; in the server it is the control socket's."""
_MAX_DESCRIPTORS = 64
_MAX_VALUE = 400
"""Characters of the text of what a source returns."""


def main() -> None:
    """Serve calls until the service ends, or none where they cannot be confined.

    Arguments: the control socket, seconds and bytes of a call.
    """
    given, seconds, memory_bytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    os.dup2(given, _CALL)  # so that no descriptor is beyond those that a child closes
    if given != _CALL:
        os.close(given)
    control = socket.socket(fileno=_CALL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    for name in MODULES:
        importlib.import_module(name)

    def forked(run: Callable[[], int], *, kept: int) -> bytes:
        """Run something in a confined child; return how it ended."""
        pid = os.fork()
        if not pid:
            status = 1
            with suppress(BaseException):
                _drop_descriptors(kept)
                confine(memory_bytes=memory_bytes, cpu_seconds=math.ceil(seconds) + 1)
                status = run()
            os._exit(status)
        return _wait(pid, seconds)

    problem = _problem(memory_bytes)
    control.send(READY + problem.encode())
    while not problem:
        try:
            message, descriptors, *_ = socket.recv_fds(control, 1, 1)
        except OSError:
            return
        if not message:
            return
        ended = forked(_serve, kept=descriptors[0])
        os.close(descriptors[0])
        control.send(ended)


def _drop_descriptors(kept: int) -> None:
    """Close all descriptors but the standard streams, which are null, and one more as `_CALL`."""
    os.dup2(kept, _CALL)
    os.closerange(_CALL + 1, _MAX_DESCRIPTORS)


def _wait(pid: int, seconds: float) -> bytes:
    """Wait for a child, kill it when its time is over; return how it ended."""
    ended = select.poll()
    descriptor = os.pidfd_open(pid)
    try:
        ended.register(descriptor, select.POLLIN)
        is_over = not ended.poll(seconds * 1000)
        if is_over:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(descriptor)
        os.waitpid(pid, 0)
    return TIMED_OUT if is_over else ENDED


def _problem(memory_bytes: int) -> str:
    """Return why calls cannot be confined here, in a sentence; nothing when they can."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            os.write(writing, _unconfined(memory_bytes).encode())
            os._exit(0)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        problem = told.read().decode()
    status = os.waitpid(pid, 0)[1]
    return problem or ("" if not status else f"A confined process ended with {status}.")


def _unconfined(memory_bytes: int) -> str:
    try:
        confine(memory_bytes=memory_bytes, cpu_seconds=5)
    except (ConfinementUnavailable, OSError, ValueError) as error:
        return str(error)
    for what, attempt in (
        ("files", lambda: os.open("/", os.O_RDONLY)),
        ("sockets", socket.socket),
        ("processes", os.fork),
        ("signals", lambda: os.kill(os.getppid(), 0)),
    ):
        with suppress(OSError):
            attempt()
            return f"A confined process still has {what}."
    return ""


def _serve() -> int:
    """Answer the call that waits, in a confined process."""
    parts = []
    while part := os.read(_CALL, 1 << 20):
        parts.append(part)
    call = json.loads(b"".join(parts))
    left = memoryview(json.dumps(_answer(call)).encode())
    while left:
        left = left[os.write(_CALL, left) :]
    return 0


def _answer(call: Mapping[str, Any]) -> dict[str, object]:  # JSON
    """Return ``{value}`` or ``{error}``; a call without a sample is answered when there is a ``grade``."""
    source = call["source"]
    linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    random.seed(0)
    sys.modules["numpy.random"].seed(0)
    space: dict[str, Any] = {"__name__": "grader"}
    try:
        exec(compile(source, NAME, "exec"), space)  # noqa: S102  # confined
        function = space.get("grade")
        if not callable(function):
            return {"error": "the source has no function grade(sample, item)"}
        value = function(call["sample"], call["item"]) if "sample" in call else 0
        is_number = not isinstance(value, bool) and isinstance(value, numbers.Real)
        return {"value": repr(float(value) if is_number else f"{value!r}")[:_MAX_VALUE]}
    except BaseException as error:  # noqa: BLE001  # whatever the source raises is its fault
        return {"error": _told(error)}


def _told(error: BaseException) -> str:
    """Return the traceback of a source, without frames outside of it."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(own)] if own else []
    return "".join([*lines, *traceback.format_exception_only(error)])


if __name__ == "__main__":
    main()
