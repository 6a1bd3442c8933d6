"""Whether a peer is alive while it computes a long answer.

A long answer is no fault, so a long call has no time-out of its own. While one is open, the peer is asked
something that it answers at once; a peer that is silent to that as well ends all long calls.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mint_common.errors import Unavailable
from mint_common.waiting import cancel_all

ASK_SECONDS = 10.0
MOST_UNANSWERED = 3
"""Questions in a row. With the time-out of each, a machine that is gone is found in some 2 minutes."""


class PeerWatch:
    """Watches one peer for all of its open long calls; end it with ``close``."""

    def __init__(self, ask: Callable[[], Awaitable[object]], *, ask_seconds: float = ASK_SECONDS) -> None:
        """``ask`` raises Unavailable when there is no answer, of any kind, in its own time."""
        self._ask = ask
        self._ask_seconds = ask_seconds
        self._calls: set[asyncio.Timeout] = set()
        self._unanswered = 0
        self._asking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Run a long call. Raises TimeoutError when the peer stops answering meanwhile."""
        async with asyncio.timeout(None) as call:
            self._calls.add(call)
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                self._calls.discard(call)
        self._unanswered = 0  # what came is a sign of life

    async def close(self) -> None:
        """Stop asking. Idempotent."""
        if self._asking is not None:
            await cancel_all(self._asking)

    async def _watch(self) -> None:
        """Ask while calls are open."""
        while True:
            await asyncio.sleep(self._ask_seconds)
            if not self._calls:
                return
            try:
                await self._ask()
                self._unanswered = 0
            except Unavailable:
                self._unanswered += 1
            if self._unanswered >= MOST_UNANSWERED:
                self._unanswered = 0
                for call in self._calls:
                    if not call.expired():
                        call.reschedule(asyncio.get_running_loop().time())
