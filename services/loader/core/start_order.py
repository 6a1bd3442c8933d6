"""The order in which waiting loads would start if no other came: repeated `ColdQueue.start`, in one pass."""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mint_common.ids import TenantId


class Waiting(Protocol):
    """A waiting load's data for the order."""

    @property
    def tenant_id(self) -> TenantId: ...
    @property
    def priority(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


L = TypeVar("L", bound=Waiting)


def start_order(waiting: Sequence[L], served: Mapping[TenantId, int]) -> tuple[L, ...]:
    """Return the waiting loads in the order of their start; ``served`` has the bytes of all their tenants."""
    lines: dict[int, dict[TenantId, deque[L]]] = {}
    for load in sorted(waiting, key=lambda each: each.order):
        lines.setdefault(load.priority, {}).setdefault(load.tenant_id, deque()).append(load)
    totals, started = dict(served), list[L]()
    for _, line in sorted(lines.items()):
        heads = [(totals[tenant], loads[0].order, tenant) for tenant, loads in line.items()]
        heapq.heapify(heads)
        while heads:
            _, _, tenant = heads[0]
            load = line[tenant].popleft()
            started.append(load)
            totals[tenant] += load.size_bytes
            if line[tenant]:
                heapq.heapreplace(heads, (totals[tenant], line[tenant][0].order, tenant))
            else:
                heapq.heappop(heads)
    return tuple(started)
