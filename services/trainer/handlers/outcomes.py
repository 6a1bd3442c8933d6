"""The newest outcomes, and the requests that wait for one, so that an answer seldom needs the database.

Invariants: a waiter is woken by its own operation only; memory is bounded by the bytes of what is kept.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from mint_common.ids import PolicyId

KEPT_BYTES = 64 * 1024 * 1024

Key = tuple[PolicyId, int]


@dataclass(slots=True)
class Outcomes:
    """Encoded outcomes by policy and number."""

    kept: OrderedDict[Key, bytes] = field(default_factory=OrderedDict)
    size_bytes: int = 0
    waiters: dict[Key, asyncio.Event] = field(default_factory=dict)
    counts: dict[Key, int] = field(default_factory=dict)

    def find(self, key: Key) -> bytes | None:
        """Return an outcome that is here."""
        return self.kept.get(key)

    def put(self, key: Key, outcome: bytes) -> None:
        """Keep an outcome and wake its waiters."""
        self.size_bytes += len(outcome) - len(self.kept.pop(key, b""))
        self.kept[key] = outcome
        while self.size_bytes > KEPT_BYTES and len(self.kept) > 1:
            self.size_bytes -= len(self.kept.popitem(last=False)[1])
        if key in self.waiters:
            self.waiters[key].set()

    async def wait(self, key: Key, *, seconds: float) -> None:
        """Wait until an outcome is put, but not longer."""
        event = self.waiters.setdefault(key, asyncio.Event())
        self.counts[key] = self.counts.get(key, 0) + 1
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self.counts[key] -= 1
            if not self.counts[key]:
                del self.counts[key], self.waiters[key]
