"""A cache of the newest outcomes, and the requests that wait for one, so that answers seldom need the
database.

Invariants: a waiter is woken by its own operation only; memory is limited by the bytes of the cached
outcomes.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from mint_common.ids import PolicyId

KEPT_BYTES = 64 * 1024 * 1024

Key = tuple[PolicyId, int]


@dataclass(slots=True)
class Outcomes:
    """Encoded outcomes by policy and number."""

    kept: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size_bytes: int = 0
    waiters: WeakValueDictionary[Key, asyncio.Event] = field(default_factory=WeakValueDictionary)

    def find(self, key: Key) -> bytes | None:
        """Return an outcome that is here."""
        return self.kept.get(key)

    def put(self, key: Key, outcome: bytes) -> None:
        """Cache an outcome and wake its waiters."""
        self.size_bytes += len(outcome) - len(self.kept.pop(key, b""))
        self.kept[key] = outcome
        while self.size_bytes > KEPT_BYTES and len(self.kept) > 1:
            self.size_bytes -= len(self.kept.popitem(last=False)[1])
        if event := self.waiters.get(key):
            event.set()

    async def wait(self, key: Key, *, seconds: float) -> None:
        """Wait until an outcome is put, but not longer."""
        event = self.waiters.setdefault(key, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
