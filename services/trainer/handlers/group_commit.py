"""Group commit: items that arrive while a transaction runs share the next one.

When the store fails, the state of its group is unknown: every waiter gets the error and flushing ends. Later
and still waiting items get Unavailable: a repetition shows the outcome.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mint_common.errors import MintError, Unavailable

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Passes items to ``flush`` in order, as many at a time as wait; one flush at a time."""

    def __init__(self, flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int = 256) -> None:
        self._flush = flush
        self._most = most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._news = asyncio.Event()
        self._is_closed = False

    async def put(self, item: T) -> R:
        """Return the result of an item. Raises what its flush raised; Unavailable when flushing has ended."""
        if self._is_closed:
            raise _ended()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._news.set()
        return await future

    async def run(self) -> None:
        """Flush until cancelled. Raises the MintError of a flush."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                    await self._flush_group(group)
        finally:
            self._is_closed = True
            for _, future in self._waiting:
                if not future.done():
                    future.set_exception(_ended())

    async def _flush_group(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        flushed = self._flush([item for item, _ in group])
        try:
            (results,) = await asyncio.gather(flushed, return_exceptions=True)
        except asyncio.CancelledError:
            for _, future in group:
                if not future.done():
                    future.set_exception(_ended())
            raise
        for index, (_, future) in enumerate(group):
            if future.done():
                continue
            if isinstance(results, BaseException):
                future.set_exception(results)
            else:
                future.set_result(results[index])
        if isinstance(results, MintError):
            raise results


def _ended() -> Unavailable:
    return Unavailable(what="the trainer", problem="it stopped committing")
