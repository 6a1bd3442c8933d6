"""Engines that answer nothing while requests wait for them: a host that is cut off breaks no connection."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from mint_common.errors import MintError
from mint_common.waiting import cancel_all

QUIET_SECONDS = 0.4
"""Time without any answer, while a request waits, after which an engine is asked whether it is there."""
ANSWER_SECONDS = 1.5
"""Time for that answer: an engine compiles or loads for about a second at times."""


class SilentEngines:
    """The addresses that did not answer when asked last, until they do. Close it in the end."""

    def __init__(self, ask: Callable[[str], Awaitable[object]]) -> None:
        """``ask`` gets any answer of an address; its errors are answers too, but for silence."""
        self._ask = ask
        self._waiting: Counter[str] = Counter()
        self._answered_at: dict[str, float] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._silent: set[str] = set()

    def __contains__(self, url: str) -> bool:
        return url in self._silent

    @contextmanager
    def waiting(self, url: str) -> Iterator[None]:
        """Note that a request waits for an address; the end of the block, but for errors, is an answer."""
        self._waiting[url] += 1
        if url not in self._watches:
            self._watches[url] = asyncio.create_task(self._watch(url))
        try:
            yield
            self._heard_of(url)
        finally:
            self._waiting[url] -= 1

    def forget(self, url: str) -> None:
        """Drop what is known of an address that is no engine's any more."""
        self._silent.discard(url)
        self._answered_at.pop(url, None)
        if watch := self._watches.pop(url, None):
            watch.cancel()

    async def aclose(self) -> None:
        """Stop asking."""
        await cancel_all(*self._watches.values())

    def _heard_of(self, url: str) -> None:
        self._answered_at[url] = time.monotonic()
        self._silent.discard(url)

    async def _watch(self, url: str) -> None:
        """Ask an address from time to time while requests wait for it, and until it answers."""
        self._answered_at[url] = time.monotonic()
        while True:
            quiet = time.monotonic() - self._answered_at[url]
            await asyncio.sleep(max(QUIET_SECONDS / 4, QUIET_SECONDS - quiet))
            if not self._waiting[url] and url not in self._silent:
                break
            if time.monotonic() - self._answered_at[url] >= QUIET_SECONDS:
                await self._check(url)
        del self._watches[url], self._waiting[url]

    async def _check(self, url: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._ask(url)
        except TimeoutError:
            self._silent.add(url)
        except MintError:
            self._answered_at[url] = time.monotonic()  # what it means is for those whose requests fail
        else:
            self._heard_of(url)
