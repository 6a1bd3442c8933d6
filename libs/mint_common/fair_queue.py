"""Order of turns: the tenant with the least service, then the one with the fewest seats, then round robin.

A tenant's service is what it is charged, in any unit: an engine charges weighted tokens. A tenant that
returns after a pause starts at the least counter of those who stayed, so that a pause earns nothing
("Fairness in Serving Large Language Models", Sheng et al., 2024). Without charges, the fewest seats
and then round robin decide. Within a tenant the order is first in, first out.

Besides its seats the queue has a reserve. A tenant may take a seat of the reserve only while it has fewer
seats than the reserve has free: a tenant with little work starts at once, whichever tenant fills the seats.

Invariants: a single tenant has all seats, up to ``limit``, and nothing of the reserve; of two tenants that
always wait, neither gets more service than the other by more than what all seats serve in the longest
turn. Nothing is stored of a tenant that neither waits nor has a seat, but a charge above the least counter.
"""

import math
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

PROMPT_WEIGHT, GENERATED_WEIGHT = 1, 2
"""Cost of a token. A prompt's tokens share a step; each generated token takes a step of its sequence."""

T = TypeVar("T", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class FairQueue(Generic[T]):
    """Waiting items, one queue per tenant, and the seats of each tenant; ``limit`` is per tenant."""

    seats: int
    reserve: int = 0
    limit: float = math.inf
    _queues: dict[str, deque[T]] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)
    _served: dict[str, int] = field(default_factory=dict)
    _least: int = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        """Yield all that wait."""
        for queue in self._queues.values():
            yield from queue

    @property
    def tenants(self) -> frozenset[str]:
        """Return the tenants that wait or have a seat."""
        return frozenset(self._queues) | frozenset(self._running)

    def served(self, tenant: str) -> int:
        """Return a tenant's counter."""
        return self._served.get(tenant, self._least)

    @property
    def seated(self) -> int:
        """Return how many seats all tenants have."""
        return self._running.total()

    def running(self, tenant: str) -> int:
        """Return how many seats a tenant has."""
        return self._running[tenant]

    def is_least_served(self, tenant: str) -> bool:
        """Return whether no tenant that waits or has a seat was served less."""
        return all(self.served(tenant) <= self.served(each) for each in self.tenants)

    def push(self, tenant: str, item: T) -> None:
        """Add an item after its tenant's others."""
        self._queue(tenant).append(item)

    def push_first(self, tenant: str, item: T) -> None:
        """Put one that had a seat before its tenant's others."""
        self._queue(tenant).appendleft(item)
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]

    def next(self, *, without: Collection[str] = ()) -> tuple[str, T] | None:
        """Return the next tenant but some, and its first item; None when none of them may start."""
        if not self._queues:
            return None
        free = self.seats + self.reserve - self.seated
        most = min(self.limit, free) if free <= self.reserve else self.limit
        allowed = [each for each in self._queues if each not in without and self._running[each] < most]
        if not allowed:
            return None
        tenant = min(allowed, key=lambda each: (self.served(each), self._running[each]))
        return tenant, self._queues[tenant][0]

    def start(self, tenant: str) -> None:
        """Give the first of a tenant's queue a seat; of equals the tenant is the last one then."""
        queue = self._queues.pop(tenant)
        queue.popleft()
        if queue:
            self._queues[tenant] = queue
        self._running[tenant] += 1

    def end(self, tenant: str) -> None:
        """Free a seat of a tenant; of equals the tenant is the last one then."""
        if tenant in self._queues:
            self._queues[tenant] = self._queues.pop(tenant)
        self._running[tenant] -= 1
        if self._served or not self._running[tenant]:
            self.set_running(self._running)

    def discard(self, tenant: str, item: T) -> bool:
        """Remove one; return whether it waited."""
        queue = self._queues.get(tenant, ())
        if item not in queue:
            return False
        self._queues[tenant].remove(item)
        if not queue:
            del self._queues[tenant]
        return True

    def remove(self, items: Collection[T]) -> None:
        """Remove several that wait."""
        gone = frozenset(items)
        queues = {
            each: deque(one for one in queue if one not in gone) for each, queue in self._queues.items()
        }
        self._queues = {each: queue for each, queue in queues.items() if queue}

    def set_running(self, running: Mapping[str, int]) -> None:
        """Set the number of each tenant's seats; drop data that no longer matters."""
        self._running = Counter({tenant: count for tenant, count in running.items() if count})
        if not self._served:
            return
        active = self.tenants
        self._least = self._floor(active)
        self._served = {
            each: served for each, served in self._served.items() if each in active or served > self._least
        }

    def charge(self, tenant: str, cost: int) -> None:
        """Charge a tenant's service."""
        self._served[tenant] = self.served(tenant) + cost

    def _queue(self, tenant: str) -> deque[T]:
        if tenant not in self._queues:
            if self._served and not self._running[tenant]:
                floor = self._floor(self.tenants)
                self._served[tenant] = max(self._served.get(tenant, floor), floor)
            self._queues[tenant] = deque()
        return self._queues[tenant]

    def _floor(self, active: Collection[str]) -> int:
        """Return the counter that a newcomer starts at."""
        if active:
            return max(self._least, min(map(self.served, active)))
        return max((self._least, *self._served.values()))
