"""Fails a test in which our own code blocks an event loop of the test's process."""

import asyncio
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
OURS = (f"{ROOT / 'services'}/", f"{ROOT / 'libs'}/")
SERVE_NOBODY = (f"{ROOT / 'services/standalone'}/",)
SUITES = (
    "tests/unit/",
    "tests/contract/",
    *(
        f"tests/integration/{name}/"
        for name in ("common", "loader", "registry", "rollout", "runtime", "trainer")
    ),
)
"""Where our code runs in the test's process."""
BLOCKING = {
    "open",
    "os.listdir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.scandir",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "time.sleep",
}
"""Audit events of Python that mean a call which may wait for a disk, a server or a clock."""
MAY_BLOCK = {
    ("importlib._bootstrap>", "_find_and_load"),  # the first import of a module, once a process
    ("logging/__init__.py", "handle"),  # a line of a log
    ("linecache.py", "updatecache"),  # the lines of a traceback
    ("builder/child.py", "end"),  # it waits for a process that was killed, 0.2 s at most
    ("builder/child.py", "start"),  # a fork, which asyncio's own would leak when cancelled
    ("workers/process.py", "_spawn"),  # the same
    ("environments/process.py", "_spawn"),  # the same
    ("builder/disk_cache.py", "_set_aside"),  # a rename that must precede the first await
    ("runtime/migration.py", "read_migrations"),  # at the start, before anything is served
    ("blobs/s3.py", "<lambda>"),  # the opening of a local file that is sent
    ("blobs/s3.py", "open_s3"),  # at the start
    ("loader/app.py", "open_loader"),  # at the start
    ("trainer/app.py", "open_trainer"),  # at the start
    ("loader/app.py", "open_engine"),  # at the start
    ("vllm/starting.py", "start_engine"),  # at the start
}
"""Ends of files and their functions below which a call may block, and why."""

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_watching = False


class BlockingCall(Exception):
    """Our code blocks an event loop."""


@contextmanager
def blocking_calls_fail() -> Iterator[None]:
    """Raise BlockingCall from a blocking call whose innermost async function is ours, until the end.

    A test's own async functions may block, and so may what they call without another async function between.
    """
    global _watching  # noqa: PLW0603  # an audit hook cannot be removed, only told to rest
    _watching = True
    try:
        yield
    finally:
        _watching = False


def _watch(event: str, args: tuple[object, ...]) -> None:
    if _watching and event in BLOCKING and asyncio._get_running_loop() and _is_ours(sys._getframe()):
        raise BlockingCall(event, *args[:1])


def _is_ours(frame: FrameType | None) -> bool:
    """Return whether the innermost async function is ours, and nothing below it may block."""
    while frame is not None:
        code = frame.f_code
        if any(code.co_name == name and code.co_filename.endswith(file) for file, name in MAY_BLOCK):
            return False
        if code.co_flags & _ASYNC:
            return code.co_filename.startswith(OURS) and not code.co_filename.startswith(SERVE_NOBODY)
        frame = frame.f_back
    return False


sys.addaudithook(_watch)
