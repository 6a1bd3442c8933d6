"""The cold queue: which revisions wait for a load, in which order, and when to refuse.

Invariants: a revision has at most one job, waiting or running, however many want it; at most ``depth`` jobs
wait, and of one tenant at most ``tenant_depth``; requests go before prewarms and prewarms before prefetches;
within each, tenants share the loads by bytes (deficit round robin), each in the order of its coming. Nothing
is kept of a tenant that has no job waiting.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from mint_common.errors import Overloaded
from mint_common.ids import Digest, TenantId


class Priority(IntEnum):
    """How urgent a load is; the smaller goes first."""

    REQUEST = 0  # a user waits
    PREWARM = 1  # a revision that will be used soon
    PREFETCH = 2  # a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One revision's load. ``order`` numbers arrivals; ``waiters`` are those who would notice its end.

    ``size_bytes`` is what it is expected to weigh; after ``deadline`` nobody waits for it any more.
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
    """The queue after somebody asked; ``joined`` an existing job, or at the cost of ``shed``'s place."""

    queue: "ColdQueue"
    joined: bool
    shed: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdQueue:
    """Waiting and running loads of one engine, as a value.

    ``turns`` holds the tenants with waiting jobs, the next first; ``credit`` the bytes that each may still
    load before its turn ends.
    """

    depth: int
    tenant_depth: int
    workers: int = 1
    waiting: tuple[Job, ...] = ()
    running: tuple[Job, ...] = ()
    turns: tuple[TenantId, ...] = ()
    credit: Mapping[TenantId, int] = field(default_factory=dict)
    arrivals: int = 0

    @property
    def has_requests(self) -> bool:
        """Return whether a user waits for a job."""
        return any(job.priority is Priority.REQUEST for job in (*self.running, *self.waiting))

    def job(self, digest: Digest) -> Job | None:
        """Return the job of a revision."""
        return next((job for job in (*self.running, *self.waiting) if job.digest == digest), None)

    def position(self, digest: Digest) -> int | None:
        """Return how many waiting jobs go before that of a revision; None when it has none that waits."""
        return next((at for at, job in enumerate(self.in_order()) if job.digest == digest), None)

    def in_order(self) -> tuple[Job, ...]:
        """Return the waiting jobs in the order in which they would start if nobody else came."""
        queue = replace(self, workers=len(self.waiting) + len(self.running))
        order: list[Job] = []
        while True:
            queue, job = queue.start()
            if job is None:
                return tuple(order)
            order.append(job)

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
        """Join the job of a revision or queue a new one. Raises Overloaded when there is no place for it.

        A full queue makes room for a more urgent job, or for one of a tenant with a shorter line, by shedding
        the last and least urgent job of the longest line. ``load_seconds`` are recent measurements, for the
        refusal's estimate.
        """
        new = Job(
            digest=digest,
            tenant_id=tenant_id,
            priority=priority,
            order=self.arrivals,
            size_bytes=max(1, size_bytes),
            deadline=deadline,
        )
        job = self.job(digest)
        if job is not None:
            return Admission(queue=self._join(job, new), joined=True)
        shed = self._place(new, load_seconds)
        queue = self if shed is None else _without(self, [shed])
        turns = queue.turns if tenant_id in queue.turns else (*queue.turns, tenant_id)
        queue = replace(queue, waiting=(*queue.waiting, new), turns=turns, arrivals=self.arrivals + 1)
        return Admission(queue=queue, joined=False, shed=None if shed is None else shed.digest)

    def start(self) -> "tuple[ColdQueue, Job | None]":
        """Move the waiting job whose turn it is to running, if a worker is free."""
        if not self.waiting or len(self.running) >= self.workers:
            return self, None
        heads = self._heads(min(job.priority for job in self.waiting))
        # Pays for any head: each tenant gets at least one load a round, and more if its own are smaller.
        quantum = max(job.size_bytes for job in heads.values())
        turns, credit = list(self.turns), dict(self.credit)
        while True:
            tenant_id = next(tenant for tenant in turns if tenant in heads)
            job = heads[tenant_id]
            if credit.get(tenant_id, 0) >= job.size_bytes:
                break
            turns.remove(tenant_id)
            turns.append(tenant_id)
            credit[tenant_id] = credit.get(tenant_id, 0) + quantum
        credit[tenant_id] -= job.size_bytes
        queue = replace(self, turns=tuple(turns), credit=credit, running=(*self.running, job))
        return _without(queue, [job]), job

    def finish(self, digest: Digest, *, size_bytes: int | None = None) -> "ColdQueue":
        """Forget a running job, whatever became of it; its tenant pays for what it really weighed."""
        job = next((job for job in self.running if job.digest == digest), None)
        if job is None:
            return self
        credit = dict(self.credit)
        if size_bytes is not None and job.tenant_id in credit:
            most_debt = -_MOST_DEBT * job.size_bytes
            credit[job.tenant_id] = max(most_debt, credit[job.tenant_id] + job.size_bytes - size_bytes)
        return replace(self, running=tuple(j for j in self.running if j is not job), credit=credit)

    def leave(self, digest: Digest) -> "ColdQueue":
        """Take one waiter away; a job that still waits and that nobody wants any more is dropped."""
        job = self.job(digest)
        if job is None:
            return self
        left = replace(job, waiters=job.waiters - 1)
        if left.waiters == 0 and job in self.waiting:
            return _without(self, [job])
        return self._swap(job, left)

    def expire(self, now: float) -> "tuple[ColdQueue, tuple[Job, ...]]":
        """Drop the waiting jobs whose deadline has passed, and return them."""
        late = tuple(job for job in self.waiting if job.deadline <= now)
        return (_without(self, late) if late else self), late

    @property
    def next_deadline(self) -> float:
        """Return when the first waiting job expires; infinity when none does."""
        return min((job.deadline for job in self.waiting), default=math.inf)

    def estimate_wait_seconds(self, load_seconds: Sequence[float], *, loads_ahead: int | None = None) -> int:
        """Return in how many whole seconds the queue should have come round: at least 1."""
        typical = sorted(load_seconds)[len(load_seconds) // 2] if load_seconds else 1.0
        ahead = len(self.waiting) + len(self.running) if loads_ahead is None else loads_ahead
        return max(1, math.ceil(typical * ahead / self.workers))

    def _heads(self, priority: Priority) -> dict[TenantId, Job]:
        """Return each tenant's next job of a priority."""
        heads: dict[TenantId, Job] = {}
        for job in self.waiting:
            if job.priority == priority:
                other = heads.setdefault(job.tenant_id, job)
                if job.order < other.order:
                    heads[job.tenant_id] = job
        return heads

    def _join(self, job: Job, new: Job) -> "ColdQueue":
        """Return the queue with one more waiter on a job, which gets the better of both places."""
        joined = replace(
            job,
            waiters=job.waiters + 1,
            priority=min(job.priority, new.priority),
            deadline=max(job.deadline, new.deadline),
        )
        line = self._line
        if job in self.waiting and len(line(new.tenant_id)) + 1 < len(line(job.tenant_id)):
            # Whoever asks for little must not stand in the line of one who asks for much.
            joined = replace(joined, tenant_id=new.tenant_id)
        return self._swap(job, joined)

    def _place(self, new: Job, load_seconds: Sequence[float]) -> Job | None:
        """Return who must go to make place; None when there is place. Raises Overloaded."""
        line = self._line(new.tenant_id)
        candidates: Sequence[Job] = ()
        if len(line) >= self.tenant_depth:
            candidates = [job for job in line if job.priority > new.priority]
            if not candidates:
                ahead = self.workers + len(line) * len({*self.turns, new.tenant_id})
                self._refuse("cold queue of the tenant", len(line), load_seconds, ahead)
        elif len(self.waiting) >= self.depth:
            longest = max(len(self._line(tenant_id)) for tenant_id in self.turns) if self.turns else 0
            candidates = [job for job in self.waiting if job.priority > new.priority] or [
                job
                for job in self.waiting
                if job.priority == new.priority
                and len(self._line(job.tenant_id)) == longest
                and longest > len(line) + 1
            ]
            if not candidates:
                self._refuse("cold queue", len(self.waiting), load_seconds, None)
        return max(candidates, key=lambda job: (job.priority, job.order), default=None)

    def _refuse(self, what: str, depth: int, load_seconds: Sequence[float], ahead: int | None) -> None:
        seconds = self.estimate_wait_seconds(load_seconds, loads_ahead=ahead)
        raise Overloaded(what=what, depth=depth, retry_after_seconds=seconds)

    def _line(self, tenant_id: TenantId) -> list[Job]:
        return [job for job in self.waiting if job.tenant_id == tenant_id]

    def _swap(self, old: Job, new: Job) -> "ColdQueue":
        def swap(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            return tuple(new if job is old else job for job in jobs)

        return _tidy(replace(self, waiting=swap(self.waiting), running=swap(self.running)))


def _without(queue: ColdQueue, gone: Sequence[Job]) -> ColdQueue:
    return _tidy(replace(queue, waiting=tuple(job for job in queue.waiting if job not in gone)))


def _tidy(queue: ColdQueue) -> ColdQueue:
    """Forget the tenants that have no job waiting; enter those that have one now."""
    present = dict.fromkeys(job.tenant_id for job in queue.waiting)
    turns = tuple(tenant for tenant in queue.turns if tenant in present)
    new = tuple(tenant for tenant in present if tenant not in turns)
    credit = {tenant: amount for tenant, amount in queue.credit.items() if tenant in present}
    return replace(queue, turns=(*turns, *new), credit=credit)


_MOST_DEBT = 16
"""How many of its expected size a load that weighed more can cost its tenant later: debt must end."""
