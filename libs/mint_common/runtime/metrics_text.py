"""The text of `/metrics`: rendered once at a time for all waiting readers, in a limited share of time.

A large service's text takes some tenths of a second of the interpreter, and needs no key.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

REST = 4
"""Pause after a rendering, in multiples of its duration, so that rendering takes at most a fifth of the
time."""


class MetricsText:
    """Makes texts in a thread: it reads files of /proc."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._next: asyncio.Task[bytes] | None = None
        self._lock = asyncio.Lock()
        self._rest_until = 0.0

    async def read(self) -> bytes:
        """Return a text that was begun after now."""
        if self._next is None:
            self._next = asyncio.create_task(self._made_in_turn())
        return await asyncio.shield(self._next)  # others wait for it too

    async def _made_in_turn(self) -> bytes:
        async with self._lock:
            await asyncio.sleep(max(0.0, self._rest_until - time.monotonic()))
            self._next = None
            text, seconds = await asyncio.to_thread(partial(_timed, self._make))
            self._rest_until = time.monotonic() + REST * seconds
            return text


def _timed(make: Callable[[], bytes]) -> tuple[bytes, float]:
    began = time.thread_time()
    return make(), time.thread_time() - began
