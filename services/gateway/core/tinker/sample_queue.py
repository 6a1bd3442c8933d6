"""Samples that wait for an engine: a queue for each API key, served by tenant and then by key, round robin.

No burst delays another tenant, and no tenant takes all seats with many samples, large samples or many keys.
Sizes are counted in sequences: a sample has up to 128.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from mint_common.open_requests import Size

_TENANTS_PART, _KEYS_PART = 3, 2
"""A tenant may hold at most this many times the seats left free: alone 3/4 of all, two tenants 3/7 each.

The rest is for the next tenant. A key's factor is smaller, which leaves seats to its tenant's other keys.
"""


_Queue = deque[tuple[str, Size]]


@dataclass(slots=True, kw_only=True)
class SampleQueue:
    """Request ids by tenant and key. ``room`` is how many seats the engines have."""

    room: int
    _tenants: Counter[str] = field(default_factory=Counter)
    _keys: Counter[str] = field(default_factory=Counter)
    _queues: OrderedDict[str, OrderedDict[str, _Queue]] = field(default_factory=OrderedDict)

    @property
    def tenants(self) -> frozenset[str]:
        """Return the tenants that have samples waiting or running."""
        return frozenset(self._queues) | frozenset(self._tenants)

    def push(self, tenant: str, key: str, request_id: str, size: Size) -> None:
        """Append a request to its key's queue."""
        self._queues.setdefault(tenant, OrderedDict()).setdefault(key, deque()).append((request_id, size))

    def pop(self) -> str | None:
        """Return the next request to run; None if nothing waits, or nothing that fits.

        No request is too large: while any seat is free, a tenant that runs nothing may begin.
        """
        for tenant, keys in self._queues.items():
            for key, queue in keys.items():
                request_id, size = queue[0]
                if self._fits(tenant, key, size.seats):
                    self._take(tenant, key)
                    self._tenants[tenant] += size.seats
                    self._keys[key] += size.seats
                    return request_id
        return None

    def remove(self, tenant: str, key: str, request_id: str) -> bool:
        """Remove a waiting request; return False if it does not wait."""
        queue = self._queues.get(tenant, OrderedDict()).get(key, deque())
        found = next((each for each in queue if each[0] == request_id), None)
        if found is None:
            return False
        queue.remove(found)
        self._tidy(tenant, key)
        return True

    def finish(self, tenant: str, key: str, size: Size) -> None:
        """Release the seats of a request that ran."""
        for running, whose in ((self._tenants, tenant), (self._keys, key)):
            running[whose] -= size.seats
            if not running[whose]:
                del running[whose]

    def _fits(self, tenant: str, key: str, seats: int) -> bool:
        left = self.room - self._tenants.total()
        parts = ((self._tenants[tenant], _TENANTS_PART), (self._keys[key], _KEYS_PART))
        return left > 0 and all(not has or has + seats <= part * (left - seats) for has, part in parts)

    def _take(self, tenant: str, key: str) -> None:
        """Remove the first request of a queue, and move its key and its tenant behind the others."""
        self._queues[tenant][key].popleft()
        self._queues[tenant].move_to_end(key)
        self._queues.move_to_end(tenant)
        self._tidy(tenant, key)

    def _tidy(self, tenant: str, key: str) -> None:
        if not self._queues[tenant][key]:
            del self._queues[tenant][key]
        if not self._queues[tenant]:
            del self._queues[tenant]


@dataclass(slots=True, kw_only=True)
class KeptAnswers:
    """Answers kept for a while, bounded in bytes: the tenant with the most bytes loses its oldest first."""

    most_bytes: int
    _tenants: dict[str, OrderedDict[str, int]] = field(default_factory=dict)
    _bytes: Counter[str] = field(default_factory=Counter)

    def add(self, tenant: str, request_id: str, size_bytes: int) -> None:
        """Keep one more."""
        self._tenants.setdefault(tenant, OrderedDict())[request_id] = size_bytes
        self._bytes[tenant] += size_bytes

    def forget(self, tenant: str, request_id: str) -> None:
        """Keep one no longer. Idempotent."""
        size_bytes = self._tenants.get(tenant, OrderedDict()).pop(request_id, None)
        if size_bytes is None:
            return
        self._bytes[tenant] -= size_bytes
        if not self._tenants[tenant]:
            del self._tenants[tenant], self._bytes[tenant]

    def too_many(self) -> str | None:
        """Return which goes next so that the others fit; None when all do."""
        if self._bytes.total() <= self.most_bytes:
            return None
        tenant = max(self._bytes, key=lambda each: self._bytes[each])
        return next(iter(self._tenants[tenant]))
