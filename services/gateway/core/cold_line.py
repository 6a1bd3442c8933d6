"""The line of cold requests: their work waits for its turn, so that warm ones never wait for a burst of it.

A cold request's adapter is in no engine's memory as far as the gateway knows: it waits for a load anyway,
which makes no more than one of them a time. A request whose adapter is there would wait for all of its
gateway's Python work that was begun before.

Invariants: one cold request is begun at a time; while warm ones are open, beginning cold ones takes at most
``share`` of any span, and one begin; tenants take turns, each in the order of its coming, and whoever is in
the line is begun after at most one of each other tenant for each that stands before it in its own.
"""

import math
from collections import OrderedDict, deque

from mint_common.errors import Overloaded
from mint_common.ids import TenantId


class ColdLine:
    """Numbers of waiting requests by tenant, and when the next one may begin."""

    def __init__(self, *, share: float, depth: int) -> None:
        """``depth``: how many may wait; the next one is refused."""
        assert 0 < share <= 1
        self._share = share
        self._depth = depth
        self._lines: OrderedDict[TenantId, deque[int]] = OrderedDict()
        self._tenants: dict[int, TenantId] = {}
        self._numbers = 0
        self._begun: int | None = None
        self._rest_seconds = 0.0
        self._ended_at = -math.inf

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._tenants)

    def join(self, tenant_id: TenantId) -> int:
        """Stand in line; return the number that `begin` will call. Raises Overloaded when it is full."""
        if len(self._tenants) >= self._depth:
            seconds = max(1, math.ceil(self._rest_seconds * len(self._tenants)))
            raise Overloaded(
                what="the line of cold requests", depth=len(self._tenants), retry_after_seconds=seconds
            )
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
        self._ended_at = now
        self._rest_seconds = seconds * (1 - self._share) / self._share
