"""Requests whose beginning takes long wait in line, so that others never wait for a burst of them.

Three kinds stand in lines of their own: those whose adapter is in no engine's memory, which wait for a load
anyway, those with a large body, whose decoding lets nothing else run, and all others, whose line has a share
of 1: its tenants take turns, and nobody rests.

Invariants: one request of a line is begun at a time; while warm ones are open, beginning those of the line
takes at most ``share`` of any span, and one begin; tenants take turns, each in the order of its coming, and
whoever is in the line is begun after at most one of each other tenant for each that stands before it in its
own; a tenant has at most as many places as it leaves free, so whoever comes finds one.
"""

import math
from collections import OrderedDict, deque

from mint_common.errors import Overloaded
from mint_common.ids import TenantId

MOST_RETRY_SECONDS = 30
"""A line gets shorter in this time, whoever stands in it: nobody is sent away for longer."""
_NEWEST_WEIGHT = 0.2
"""Of the time between the last two begins, in the line's speed."""


class PacedLine:
    """Numbers of waiting requests by tenant, and when the next one may begin."""

    def __init__(self, *, name: str, share: float, depth: int) -> None:
        """``depth``: how many may wait; the next one is refused."""
        assert 0 < share <= 1
        self._name = name
        self._share = share
        self._depth = depth
        self._lines: OrderedDict[TenantId, deque[int]] = OrderedDict()
        self._tenants: dict[int, TenantId] = {}
        self._numbers = 0
        self._begun: int | None = None
        self._rest_seconds = 0.0
        self._ended_at = -math.inf
        self._someone_waited = False
        self._turn_seconds = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._tenants)

    def join(self, tenant_id: TenantId) -> int:
        """Stand in line; return the number that `begin` will call. Raises Overloaded when it is full."""
        own = len(self._lines.get(tenant_id, ()))
        if own + 1 > max(1, self._depth - len(self._tenants) - 1) or len(self._tenants) >= self._depth:
            raise Overloaded(what=self._name, depth=own, retry_after_seconds=self._retry_seconds())
        self._numbers += 1
        self._tenants[self._numbers] = tenant_id
        self._lines.setdefault(tenant_id, deque()).append(self._numbers)
        return self._numbers

    def leave(self, number: int) -> None:
        """Step out of the line; who has been called has left it."""
        tenant_id = self._tenants.pop(number, None)
        if tenant_id is not None:
            self._lines[tenant_id].remove(number)
            if not self._lines[tenant_id]:
                del self._lines[tenant_id]

    def wait_seconds(self, now: float, *, warm: int) -> float | None:
        """Return how long nobody may begin, with so many warm requests open; None: until one has ended."""
        if self._begun is not None or not self._tenants:
            return None
        return max(0.0, self._ended_at + self._rest_seconds - now) if warm else 0.0

    def begin(self) -> int:
        """Call who begins now, when `wait_seconds` is 0."""
        assert self._begun is None
        tenant_id, line = self._lines.popitem(last=False)
        number = line.popleft()
        if line:
            self._lines[tenant_id] = line  # behind all other tenants
        del self._tenants[number]
        self._begun = number
        return number

    def end(self, now: float, *, seconds: float) -> None:
        """Note that beginning has taken so long: warm requests have the time that belongs to it."""
        assert self._begun is not None
        self._begun = None
        if self._someone_waited:
            self._turn_seconds += _NEWEST_WEIGHT * (now - self._ended_at - self._turn_seconds)
        self._someone_waited = bool(self._tenants)
        self._ended_at = now
        self._rest_seconds = seconds * (1 - self._share) / self._share

    def _retry_seconds(self) -> int:
        """Return in how long the line will have moved on by as many as wait now, within bounds."""
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(self._turn_seconds * len(self._tenants))))
