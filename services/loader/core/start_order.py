"""In which order waiting loads would start if nobody else came: as repeated `ColdQueue.start`, in one pass.

A queue's turns and credit go on from priority to priority; within one, only tenants with such loads take
turns. Whoever is passed over goes behind all others, with enough credit for any load that is next.
"""

import heapq
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mint_common.ids import TenantId


class Waiting(Protocol):
    """What counts of a load that waits."""

    @property
    def tenant_id(self) -> TenantId: ...
    @property
    def priority(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


L = TypeVar("L", bound=Waiting)
Line = dict[TenantId, deque[L]]
"""The loads of one priority that wait, of each tenant in the order of their coming."""


def start_order(
    waiting: Sequence[L], turns: Sequence[TenantId], credit: Mapping[TenantId, int]
) -> tuple[L, ...]:
    """Return the waiting loads in the order of their start."""
    lines: dict[int, Line[L]] = {}
    for load in sorted(waiting, key=lambda each: each.order):
        lines.setdefault(load.priority, {}).setdefault(load.tenant_id, deque()).append(load)
    turns, left_credit, started = list(turns), dict(credit), list[L]()
    left = Counter(load.tenant_id for load in waiting)
    for priority in sorted(lines):
        passed_over: dict[TenantId, None] = {}
        for load in _of_priority(lines[priority], turns, left_credit, passed_over):
            started.append(load)
            left[load.tenant_id] -= 1
        turns = [*(each for each in turns if each not in passed_over), *passed_over]
        turns = [each for each in turns if left[each]]
    return tuple(started)


def _of_priority(
    line: Line[L], turns: Sequence[TenantId], credit: dict[TenantId, int], passed_over: dict[TenantId, None]
) -> list[L]:
    active = deque(tenant for tenant in turns if tenant in line)
    sizes = [(-loads[0].size_bytes, tenant) for tenant, loads in line.items()]
    heapq.heapify(sizes)
    started: list[L] = []
    while active:
        tenant = active[0]
        loads = line[tenant]
        if credit.get(tenant, 0) < loads[0].size_bytes:
            while not _is_next(line, *sizes[0]):
                heapq.heappop(sizes)
            credit[tenant] = credit.get(tenant, 0) - sizes[0][0]
            passed_over.pop(tenant, None)
            passed_over[tenant] = None
            active.rotate(-1)
            continue
        load = loads.popleft()
        credit[tenant] -= load.size_bytes
        started.append(load)
        if loads:
            heapq.heappush(sizes, (-loads[0].size_bytes, tenant))
        else:
            active.popleft()
    return started


def _is_next(line: Line[L], minus_size_bytes: int, tenant: TenantId) -> bool:
    """Return whether a tenant's next load still has a size that was noted."""
    return bool(line[tenant]) and line[tenant][0].size_bytes == -minus_size_bytes
