"""Samples that wait for an engine: a line for each API key, tenants and then their keys in turn.

So nobody waits behind another's burst, nobody takes all the room with many samples, with large ones or with
many keys, and nobody's queue grows without bound. Sizes are counted in sequences: a sample has up to 128.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from services.gateway.core.open_requests import Size

_TENANTS_PART, _KEYS_PART = 3, 2
"""A tenant has at most so many times running what room is left: alone 3/4 of all, of two each 3/7.

What is left is for the next. A key has a smaller part, so that it leaves some to its tenant's others.
"""


_Line = deque[tuple[str, Size]]


@dataclass(slots=True, kw_only=True)
class SampleQueue:
    """Request ids by tenant and key. ``room`` is how many seats the engines have."""

    room: int
    _tenants: Counter[str] = field(default_factory=Counter)
    _keys: Counter[str] = field(default_factory=Counter)
    _lines: OrderedDict[str, OrderedDict[str, _Line]] = field(default_factory=OrderedDict)

    @property
    def tenants(self) -> frozenset[str]:
        """Return who waits or runs."""
        return frozenset(self._lines) | frozenset(self._tenants)

    def push(self, tenant: str, key: str, request_id: str, size: Size) -> None:
        """Let a request wait at the end of its key's line."""
        self._lines.setdefault(tenant, OrderedDict()).setdefault(key, deque()).append((request_id, size))

    def pop(self) -> str | None:
        """Return the next request to run, or None when none waits that there is room for.

        None is too large: while any room is left, who runs nothing begins.
        """
        for tenant, keys in self._lines.items():
            for key, line in keys.items():
                request_id, size = line[0]
                if self._fits(tenant, key, size.seats):
                    self._take(tenant, key)
                    self._tenants[tenant] += size.seats
                    self._keys[key] += size.seats
                    return request_id
        return None

    def remove(self, tenant: str, key: str, request_id: str) -> bool:
        """Take a waiting request out; False when it does not wait (any more)."""
        line = self._lines.get(tenant, OrderedDict()).get(key, deque())
        found = next((each for each in line if each[0] == request_id), None)
        if found is None:
            return False
        line.remove(found)
        self._tidy(tenant, key)
        return True

    def finish(self, tenant: str, key: str, size: Size) -> None:
        """Give back the room of a request that ran."""
        for running, whose in ((self._tenants, tenant), (self._keys, key)):
            running[whose] -= size.seats
            if not running[whose]:
                del running[whose]

    def _fits(self, tenant: str, key: str, seats: int) -> bool:
        left = self.room - self._tenants.total()
        parts = ((self._tenants[tenant], _TENANTS_PART), (self._keys[key], _KEYS_PART))
        return left > 0 and all(not has or has + seats <= part * (left - seats) for has, part in parts)

    def _take(self, tenant: str, key: str) -> None:
        """Take the first of a line; its key and its tenant go behind the others."""
        self._lines[tenant][key].popleft()
        self._lines[tenant].move_to_end(key)
        self._lines.move_to_end(tenant)
        self._tidy(tenant, key)

    def _tidy(self, tenant: str, key: str) -> None:
        if not self._lines[tenant][key]:
            del self._lines[tenant][key]
        if not self._lines[tenant]:
            del self._lines[tenant]


@dataclass(slots=True, kw_only=True)
class KeptAnswers:
    """Answers that are kept for a while: when they get too many, the tenant with most bytes loses first."""

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
