"""The queue of requests that wait to be begun, fair among tenants, with a bounded share of the event loop.

There are three: of requests whose adapter is in no engine's memory (they wait for a load anyway), of requests
with a large body (decoding it blocks the loop), and of all others (share 1: tenants alternate, no pauses).

Invariants: one request of a queue is begun at a time. While warm requests are open, beginning those of the
queue takes at most ``share`` of any span plus one begin. Tenants alternate, each first in, first out. A
tenant may queue at most as many requests as it leaves room for, so a newcomer always finds room.
"""

import math
from collections import OrderedDict, deque

from mint_common.errors import Overloaded
from mint_common.ids import TenantId

MOST_RETRY_SECONDS = 30
"""The largest Retry-After: a queue is shorter by then."""
_NEWEST_WEIGHT = 0.2
"""Weight of the newest interval in the moving average of intervals between begins."""


class AdmissionQueue:
    """Tickets of waiting requests by tenant, and when the next one may begin."""

    def __init__(self, *, name: str, share: float, depth: int) -> None:
        """``depth``: how many may wait; one more is refused."""
        assert 0 < share <= 1
        self._name = name
        self._share = share
        self._depth = depth
        self._queues: OrderedDict[TenantId, deque[int]] = OrderedDict()
        self._tenants: dict[int, TenantId] = {}
        self._last_ticket = 0
        self._begun: int | None = None
        self._rest_seconds = 0.0
        self._ended_at = -math.inf
        self._someone_waited = False
        self._turn_seconds = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._tenants)

    def join(self, tenant_id: TenantId) -> int:
        """Queue a request and return its ticket. Raises Overloaded when the queue is full."""
        own = len(self._queues.get(tenant_id, ()))
        if own + 1 > max(1, self._depth - len(self._tenants) - 1) or len(self._tenants) >= self._depth:
            raise Overloaded(what=self._name, depth=own, retry_after_seconds=self._retry_seconds())
        self._last_ticket += 1
        self._tenants[self._last_ticket] = tenant_id
        self._queues.setdefault(tenant_id, deque()).append(self._last_ticket)
        return self._last_ticket

    def leave(self, ticket: int) -> None:
        """Remove a request from the queue. Idempotent; one that has begun is not in it any more."""
        tenant_id = self._tenants.pop(ticket, None)
        if tenant_id is not None:
            self._queues[tenant_id].remove(ticket)
            if not self._queues[tenant_id]:
                del self._queues[tenant_id]

    def wait_seconds(self, now: float, *, warm: int) -> float | None:
        """Return the seconds until the next begin with so many warm requests open; None: none may begin."""
        if self._begun is not None or not self._tenants:
            return None
        return max(0.0, self._ended_at + self._rest_seconds - now) if warm else 0.0

    def begin(self) -> int:
        """Return the ticket of the request that begins now; call it when `wait_seconds` is 0."""
        assert self._begun is None
        tenant_id, queue = self._queues.popitem(last=False)
        ticket = queue.popleft()
        if queue:
            self._queues[tenant_id] = queue  # the tenant goes behind all others
        del self._tenants[ticket]
        self._begun = ticket
        return ticket

    def end(self, now: float, *, seconds: float) -> None:
        """Note how long the begin took: the pause after it leaves warm requests their share."""
        assert self._begun is not None
        self._begun = None
        if self._someone_waited:
            self._turn_seconds += _NEWEST_WEIGHT * (now - self._ended_at - self._turn_seconds)
        self._someone_waited = bool(self._tenants)
        self._ended_at = now
        self._rest_seconds = seconds * (1 - self._share) / self._share

    def _retry_seconds(self) -> int:
        """Return when the requests that wait now will have begun, within bounds."""
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(self._turn_seconds * len(self._tenants))))
