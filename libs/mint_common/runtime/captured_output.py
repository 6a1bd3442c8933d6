"""Log what libraries write to a process's standard output and error: cut, counted, as JSON.

C++ code writes there without Python's logging, and some of it writes clients' content, which could
look like a log line, or fill a disk.

Invariants: only the log's own writer writes to the log; the output of a crashing process is
logged too, because a separate process reads it, which ends when the last writer has closed it.
"""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mint_common.line_budget import LineBudget
from mint_common.telemetry.logs import JsonFormatter

LINES_PER_SECOND = 5
BEGIN_CHARACTERS, END_CHARACTERS = 1000, 2800
"""Characters logged of the begin and the end of a longer text; together less than the limit of a log
line."""
_CHUNK_BYTES = 1 << 16
_PAUSE_SECONDS = 0.2
"""Pause that ends a log line: text written without one, such as a traceback, is one line."""
_MAX_BYTES = 1 << 20
"""Maximum bytes of one log line before it is cut."""
_END_SECONDS = 1.0


def keep_log_apart() -> None:
    """Have `sys.stdout`, and so the log, write to a descriptor that `captured_output` leaves alone."""
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")


@contextmanager
def captured_output(*, service: str) -> Iterator[None]:
    """Log what this process and those that it starts write to descriptors 1 and 2; after `keep_log_apart`."""
    read_end, write_end = os.pipe()
    kept = os.dup(1), os.dup(2)
    # A session of its own, without the signals that end this one: it outlives it, to log what a crash leaves.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        reader = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, service],
            stdin=read_end,
            stdout=sys.stdout.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(read_end)
    for descriptor in (1, 2):
        os.dup2(write_end, descriptor)
    os.close(write_end)
    try:
        yield
    finally:
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        with suppress(subprocess.TimeoutExpired):  # a child that is still there may write on
            reader.wait(_END_SECONDS)


def log_output(descriptor: int, *, service: str) -> None:
    """Log what comes from a pipe until it ends."""
    formatter, budget = JsonFormatter(service), LineBudget(per_second=LINES_PER_SECOND)
    left_out_bytes = 0
    while written := _written(descriptor):
        skipped = budget.take(time.monotonic())
        if skipped is None:
            left_out_bytes += len(written)
            continue
        text = written.decode(errors="replace")
        record = logging.makeLogRecord(
            {
                "name": __spec__.name if __spec__ else __name__,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "a library wrote to the standard output or error",
                "output": _cut(text),
                "characters": len(text),
                "lines_left_out": skipped,
                "bytes_left_out": left_out_bytes,
            }
        )
        left_out_bytes = 0
        with suppress(OSError):  # a full disk
            os.write(1, f"{formatter.format(record)}\n".encode())


def _written(descriptor: int) -> bytes:
    """Return the output up to the next pause; empty at the end."""
    written = os.read(descriptor, _CHUNK_BYTES)
    while written and len(written) < _MAX_BYTES:
        if not select.select([descriptor], [], [], _PAUSE_SECONDS)[0]:
            break
        more = os.read(descriptor, _CHUNK_BYTES)
        if not more:
            break
        written += more
    return written


def _cut(text: str) -> str:
    if len(text) <= BEGIN_CHARACTERS + END_CHARACTERS:
        return text
    return f"{text[:BEGIN_CHARACTERS]}\n...\n{text[-END_CHARACTERS:]}"


if __name__ == "__main__":
    log_output(0, service=sys.argv[1])
