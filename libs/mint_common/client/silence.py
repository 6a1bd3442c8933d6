"""Engines that answer nothing while requests wait for them: a host that is cut off breaks no connection.

A silent engine is chosen last, and its open requests go on; `PeerWatch` ends those after minutes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import MintError
from mint_common.waiting import cancel_all

QUIET_SECONDS = 0.4
"""Time without any answer, while a request waits, after which an engine is asked whether it is there."""
ANSWER_SECONDS = 1.5
"""Time limit of its answer: an engine compiles or loads for about a second at times."""


@dataclass(slots=True, kw_only=True)
class _Engine:
    waiting: int = 0
    is_silent: bool = False
    answered_at: float = field(default_factory=time.monotonic)

    def has_answered(self) -> None:
        self.answered_at = time.monotonic()
        self.is_silent = False


class SilentEngines:
    """The addresses that did not answer when asked last, until they answer. Close it in the end."""

    def __init__(self, ask: Callable[[str], Awaitable[object]]) -> None:
        """``ask`` returns any answer of an address. A MintError of it is no silence; a timeout is."""
        self._ask = ask
        self._engines: dict[str, _Engine] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, url: str) -> bool:
        engine = self._engines.get(url)
        return engine is not None and engine.is_silent

    @contextmanager
    def waiting(self, url: str) -> Iterator[None]:
        """Note that a request waits for an address; a block that ends without an error is an answer."""
        if url not in self._engines:
            self._engines[url] = _Engine()
            self._watches[url] = asyncio.create_task(self._watch(url, self._engines[url]))
        engine = self._engines[url]
        engine.waiting += 1
        try:
            yield
            engine.has_answered()
        finally:
            engine.waiting -= 1

    def forget(self, url: str) -> None:
        """Drop what is known of an address that is no engine's any more."""
        self._engines.pop(url, None)
        if watch := self._watches.pop(url, None):
            watch.cancel()

    async def aclose(self) -> None:
        """Stop asking."""
        await cancel_all(*self._watches.values())

    async def _watch(self, url: str, engine: _Engine) -> None:
        """Ask an address from time to time while requests wait for it, and until it answers."""
        try:
            while True:
                quiet = time.monotonic() - engine.answered_at
                await asyncio.sleep(max(QUIET_SECONDS / 4, QUIET_SECONDS - quiet))
                if not engine.waiting and not engine.is_silent:
                    return
                if time.monotonic() - engine.answered_at >= QUIET_SECONDS:
                    await self._check(url, engine)
        finally:
            if self._engines.get(url) is engine:
                del self._engines[url], self._watches[url]

    async def _check(self, url: str, engine: _Engine) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._ask(url)
        except TimeoutError:
            engine.is_silent = True
        except MintError:
            engine.answered_at = time.monotonic()  # requests that fail with it say what it means
        else:
            engine.has_answered()
