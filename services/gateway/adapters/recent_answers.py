"""Answers of the registry, or recent ones while it is away or slow."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from mint_common.errors import Unavailable

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""Time that a caller waits for a fresh answer while there is a recent one.

A registry that has lost its database refuses only after 5 s.
"""


class RecentAnswers(Generic[T]):
    """Questions that were not waited for: each goes on, and what it learns is for later callers.

    Invariant: while one of a key goes on, callers that have a recent answer ask no other and wait no longer.
    """

    def __init__(self) -> None:
        self._slow: dict[Hashable, asyncio.Task[T]] = {}

    async def fresh_or_recent(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]], recent: Callable[[], T | None]
    ) -> T:
        """Return an answer, or the recent one if the question takes long or raises Unavailable.

        ``recent`` is called then, and returns None if there is no recent answer: the question is waited for.
        """
        if key in self._slow and (known := recent()) is not None:
            return known
        task = asyncio.create_task(ask())
        try:
            await asyncio.wait((task,), timeout=PATIENCE_SECONDS)
            if not task.done() and (known := recent()) is not None:
                self._leave(key, task)
                return known
            return await task
        except Unavailable:
            if (known := recent()) is None:
                raise
            return known
        finally:
            if self._slow.get(key) is not task:
                task.cancel()

    def _leave(self, key: Hashable, task: "asyncio.Task[T]") -> None:
        def ended(_: object) -> None:
            if self._slow.get(key) is task:
                del self._slow[key]
            if not task.cancelled():
                task.exception()  # later callers learn of it when they ask

        if other := self._slow.get(key):
            other.cancel()
        self._slow[key] = task
        task.add_done_callback(ended)
