"""The cold queue: which revisions wait for a load, in which order, and when to refuse.

Invariants: a revision has at most one load, waiting or running, however many want it; at most ``depth`` loads
wait, and of one tenant at most ``tenant_depth``; requests go before prewarms and prewarms before prefetches;
within each, the next load is the first of the tenant that was served the fewest bytes. A load that waits for
room is parked: it has no worker. Nothing is stored of a tenant that has no load.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from mint_common.errors import Overloaded
from mint_common.ids import Digest, TenantId
from services.loader.core.start_order import start_order


class Priority(IntEnum):
    """Urgency of a load; the smaller goes first."""

    REQUEST = 0  # a user waits
    PREWARM = 1  # a revision that will be used soon
    PREFETCH = 2  # a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedLoad:
    """One revision's load. ``order`` numbers arrivals; ``waiters`` wait for its end.

    ``size_bytes`` is its estimated size; after ``deadline`` it has no waiters.
    """

    digest: Digest
    tenant_id: TenantId
    priority: Priority
    order: int
    size_bytes: int
    deadline: float = math.inf
    waiters: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The queue after somebody asked; ``joined`` an existing load, or at the cost of ``shed``'s place."""

    queue: "ColdQueue"
    joined: bool
    shed: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdQueue:
    """Waiting and running loads of one engine, as a value.

    ``parked`` are those of ``running`` that wait for host memory. ``served`` holds the bytes served to each
    tenant with loads; a newcomer starts at the minimum of these.
    """

    depth: int
    tenant_depth: int
    workers: int = 1
    waiting: tuple[QueuedLoad, ...] = ()
    running: tuple[QueuedLoad, ...] = ()
    parked: frozenset[Digest] = frozenset()
    served: Mapping[TenantId, int] = field(default_factory=dict)
    arrivals: int = 0

    @property
    def has_requests(self) -> bool:
        """Return whether a user waits for a load."""
        return any(load.priority is Priority.REQUEST for load in (*self.running, *self.waiting))

    def load(self, digest: Digest) -> QueuedLoad | None:
        """Return the load of a revision."""
        return next((load for load in (*self.running, *self.waiting) if load.digest == digest), None)

    def in_order(self) -> tuple[QueuedLoad, ...]:
        """Return the waiting loads in the order in which they would start without further arrivals."""
        return start_order(self.waiting, self.served)

    def ask(
        self,
        digest: Digest,
        priority: Priority,
        *,
        tenant_id: TenantId,
        size_bytes: int,
        load_seconds: Sequence[float],
        deadline: float = math.inf,
    ) -> Admission:
        """Join the load of a revision or queue a new one. Raises Overloaded when there is no place for it.

        A full queue makes room for a more urgent load, or for one of a tenant with fewer waiting loads, by
        shedding the last and least urgent load of the tenant with most. ``load_seconds`` are recent
        measurements, for the refusal's estimate.
        """
        new = QueuedLoad(
            digest=digest,
            tenant_id=tenant_id,
            priority=priority,
            order=self.arrivals,
            size_bytes=max(1, size_bytes),
            deadline=deadline,
        )
        load = self.load(digest)
        if load is not None:
            return Admission(queue=self._join(load, new), joined=True)
        shed = self._place(new, load_seconds)
        queue = self if shed is None else _without(self, [shed])
        queue = replace(queue, waiting=(*queue.waiting, new), arrivals=self.arrivals + 1)
        return Admission(queue=_tidy(queue), joined=False, shed=None if shed is None else shed.digest)

    def start(self) -> "tuple[ColdQueue, QueuedLoad | None]":
        """Move the waiting load whose turn it is to running, if a worker is free."""
        if not self.waiting or len(self.running) - len(self.parked) >= self.workers:
            return self, None
        urgent = min(load.priority for load in self.waiting)
        loads = [load for load in self.waiting if load.priority == urgent]
        load = min(loads, key=lambda each: (self.served[each.tenant_id], each.order))
        served = {**self.served, load.tenant_id: self.served[load.tenant_id] + load.size_bytes}
        return _without(replace(self, served=served, running=(*self.running, load)), [load]), load

    def park(self, digest: Digest, *, parked: bool) -> "ColdQueue":
        """Take a running load's worker from it while it waits for room, or give it one again."""
        return replace(self, parked=self.parked | {digest} if parked else self.parked - {digest})

    def parked_in_order(self) -> tuple[QueuedLoad, ...]:
        """Return the parked loads in the order in which room is theirs: of who parks least first."""
        loads = [load for load in self.running if load.digest in self.parked]
        of_tenant = Counter(load.tenant_id for load in loads)
        return tuple(sorted(loads, key=lambda load: (of_tenant[load.tenant_id], load.order)))

    def finish(self, digest: Digest, *, size_bytes: int | None = None) -> "ColdQueue":
        """Remove a running load, whatever its result; its tenant is charged its actual size."""
        load = next((load for load in self.running if load.digest == digest), None)
        if load is None:
            return self
        more = 0 if size_bytes is None else min(size_bytes - load.size_bytes, _MAX_DEBT * load.size_bytes)
        served = {**self.served, load.tenant_id: self.served[load.tenant_id] + more}
        running = tuple(each for each in self.running if each is not load)
        return _tidy(replace(self, running=running, parked=self.parked - {digest}, served=served))

    def leave(self, digest: Digest) -> "ColdQueue":
        """Remove one waiter; a waiting load without waiters is dropped."""
        load = self.load(digest)
        if load is None:
            return self
        left = replace(load, waiters=load.waiters - 1)
        if left.waiters == 0 and load in self.waiting:
            return _without(self, [load])
        return self._swap(load, left)

    def expire(self, now: float) -> "tuple[ColdQueue, tuple[QueuedLoad, ...]]":
        """Drop the waiting loads whose deadline has passed, and return them."""
        late = tuple(load for load in self.waiting if load.deadline <= now)
        return (_without(self, late) if late else self), late

    def estimate_wait_seconds(self, load_seconds: Sequence[float], *, loads_ahead: int | None = None) -> int:
        """Return in how many whole seconds the queue should have come round: at least 1."""
        typical = sorted(load_seconds)[len(load_seconds) // 2] if load_seconds else 1.0
        ahead = len(self.waiting) + len(self.running) if loads_ahead is None else loads_ahead
        return max(1, math.ceil(typical * ahead / self.workers))

    def _join(self, load: QueuedLoad, new: QueuedLoad) -> "ColdQueue":
        """Return the queue with one more waiter on a load, which gets the better of both places."""
        joined = replace(
            load,
            waiters=load.waiters + 1,
            priority=min(load.priority, new.priority),
            deadline=max(load.deadline, new.deadline),
        )
        line = self._line
        if load in self.waiting and len(line(new.tenant_id)) + 1 < len(line(load.tenant_id)):
            # Whoever asks for little must not stand in the line of one who asks for much.
            joined = replace(joined, tenant_id=new.tenant_id)
        return self._swap(load, joined)

    def _place(self, new: QueuedLoad, load_seconds: Sequence[float]) -> QueuedLoad | None:
        """Return who must go to make place; None when there is place. Raises Overloaded."""
        line = self._line(new.tenant_id)
        parked = sum(load.tenant_id == new.tenant_id for load in self.running if load.digest in self.parked)
        candidates: Sequence[QueuedLoad] = ()
        if len(line) + parked >= self.tenant_depth:
            candidates = [load for load in line if load.priority > new.priority]
            if not candidates:
                ahead = self.workers + len(line) * len({*self._tenants, new.tenant_id})
                self._refuse("cold queue of the tenant", len(line), load_seconds, ahead)
        elif len(self.waiting) + len(self.parked) >= self.depth:
            longest = max((len(self._line(tenant_id)) for tenant_id in self._tenants), default=0)
            candidates = [load for load in self.waiting if load.priority > new.priority] or [
                load
                for load in self.waiting
                if load.priority == new.priority
                and len(self._line(load.tenant_id)) == longest
                and longest > len(line) + 1
            ]
            if not candidates:
                self._refuse("cold queue", len(self.waiting), load_seconds, None)
        return max(candidates, key=lambda load: (load.priority, load.order), default=None)

    def _refuse(self, what: str, depth: int, load_seconds: Sequence[float], ahead: int | None) -> None:
        seconds = self.estimate_wait_seconds(load_seconds, loads_ahead=ahead)
        raise Overloaded(what=what, depth=depth, retry_after_seconds=seconds)

    @property
    def _tenants(self) -> frozenset[TenantId]:
        return frozenset(load.tenant_id for load in self.waiting)

    def _line(self, tenant_id: TenantId) -> list[QueuedLoad]:
        return [load for load in self.waiting if load.tenant_id == tenant_id]

    def _swap(self, old: QueuedLoad, new: QueuedLoad) -> "ColdQueue":
        def swap(loads: tuple[QueuedLoad, ...]) -> tuple[QueuedLoad, ...]:
            return tuple(new if load is old else load for load in loads)

        return _tidy(replace(self, waiting=swap(self.waiting), running=swap(self.running)))


def _without(queue: ColdQueue, gone: Sequence[QueuedLoad]) -> ColdQueue:
    return _tidy(replace(queue, waiting=tuple(load for load in queue.waiting if load not in gone)))


def _tidy(queue: ColdQueue) -> ColdQueue:
    """Forget the tenants that have no load; enter those that have one now."""
    tenants = {load.tenant_id for load in (*queue.waiting, *queue.running)}
    served = {tenant: size_bytes for tenant, size_bytes in queue.served.items() if tenant in tenants}
    least = min(served.values(), default=0)
    return replace(queue, served=dict.fromkeys(tenants, least) | served)


_MAX_DEBT = 16
"""Limit of what a load that weighs more can cost its tenant later, in its expected sizes: debt must end."""
