"""Detect whether a peer is alive while it computes a long answer.

A long answer is not a fault, so a long call has no time-out. While one is open, the peer gets a request
that it answers at once; if it is silent to that too, all long calls end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from mint_common.waiting import cancel_all

ASK_SECONDS = 10.0
MAX_UNANSWERED = 3
"""Questions in a row. With the time-out of each, a peer that hangs is found in some 2 minutes."""

End = Callable[[], None]


class PeerWatch:
    """Watches one peer for all of its open long calls; end it with ``close``."""

    def __init__(self, ask: Callable[[], Awaitable[object]], *, ask_seconds: float = ASK_SECONDS) -> None:
        """``ask`` raises TimeoutError when the peer is silent, and no other error.

        A refused connection is not silence: a process that has ended breaks its calls' connections
        itself, and one that drains accepts no new ones.
        """
        self._ask = ask
        self._ask_seconds = ask_seconds
        self._ends: set[End] = set()
        self._asking: asyncio.Task[None] | None = None

    def add(self, end: End) -> Callable[[], None]:
        """Have ``end`` called when the peer is silent, until what this returns is called."""
        self._ends.add(end)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._watch())
        return partial(self._ends.discard, end)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Run a long call. Raises TimeoutError when the peer is silent meanwhile."""
        async with asyncio.timeout(None) as call:
            remove = self.add(partial(_expire, call))
            try:
                yield
            finally:
                remove()

    async def close(self) -> None:
        """Stop asking. Idempotent."""
        if self._asking is not None:
            await cancel_all(self._asking)

    async def _watch(self) -> None:
        """Ask while calls are open."""
        unanswered = 0
        while True:
            await asyncio.sleep(self._ask_seconds)
            if not self._ends:
                return
            try:
                await self._ask()
                unanswered = 0
            except TimeoutError:
                unanswered += 1
            if unanswered >= MAX_UNANSWERED:
                unanswered = 0
                for end in list(self._ends):
                    end()


def _expire(call: asyncio.Timeout) -> None:
    if not call.expired():
        call.reschedule(asyncio.get_running_loop().time())
