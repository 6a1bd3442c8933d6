"""Samples that wait for an engine: one line for each API key, served in turn.

So nobody waits behind another's burst, nobody takes all the room, and nobody's queue grows without bound.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from mint_common.errors import Overloaded


@dataclass(slots=True, kw_only=True)
class SampleQueue:
    """Request ids by key. ``room`` is how many of them may run at once, ``share`` how many of one key."""

    room: int
    share: int
    _running: Counter[str] = field(default_factory=Counter)
    _lines: OrderedDict[str, deque[str]] = field(default_factory=OrderedDict)

    def push(self, key: str, request_id: str) -> None:
        """Let a request wait at the end of its key's line."""
        self._lines.setdefault(key, deque()).append(request_id)

    def pop(self) -> str | None:
        """Return the next request to run, or None when none waits that there is room for."""
        if self._running.total() >= self.room:
            return None
        key = next((each for each in self._lines if self._running[each] < self.share), None)
        if key is None:
            return None
        line = self._lines.pop(key)
        request_id = line.popleft()
        if line:
            self._lines[key] = line  # behind all other keys
        self._running[key] += 1
        return request_id

    def remove(self, key: str, request_id: str) -> bool:
        """Take a waiting request out; False when it does not wait (any more)."""
        line = self._lines.get(key, deque())
        if request_id not in line:
            return False
        line.remove(request_id)
        if not line:
            del self._lines[key]
        return True

    def finish(self, key: str) -> None:
        """Give back the room of a request that ran."""
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]


@dataclass(slots=True, kw_only=True)
class KeyBounds:
    """How much of each key is queued or runs: at most ``most`` requests and ``most_bytes`` of prompts."""

    most: int
    most_bytes: int
    _open: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, key: str, size_bytes: int) -> None:
        """Count a request in. Raises Overloaded, which clients take as the sign to slow down."""
        count, size = self._open.get(key, (0, 0))
        if count >= self.most or (count and size + size_bytes > self.most_bytes):
            raise Overloaded(what="the queue of your samples", depth=count, retry_after_seconds=1)
        self._open[key] = (count + 1, size + size_bytes)

    def give_back(self, key: str, size_bytes: int) -> None:
        """Count a request out."""
        count, size = self._open[key]
        if count == 1:
            del self._open[key]
        else:
            self._open[key] = (count - 1, size - size_bytes)
