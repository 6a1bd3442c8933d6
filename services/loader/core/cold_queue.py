"""The cold queue: which revisions wait for a load, in which order, and when to refuse.

Invariants: a revision has at most one job, waiting or running, however many want it; at most ``depth`` jobs
wait; requests go before prewarms and prewarms before prefetches, first come first served within each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from mint_common.errors import Overloaded
from mint_common.ids import Digest


class Priority(IntEnum):
    """How urgent a load is; the smaller goes first."""

    REQUEST = 0  # a user waits
    PREWARM = 1  # a revision that will be used soon
    PREFETCH = 2  # a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One revision's load. ``order`` numbers arrivals; ``waiters`` are those who would notice its end."""

    digest: Digest
    priority: Priority
    order: int
    waiters: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The queue after somebody asked; ``joined`` an existing job, or at the cost of ``shed``'s place."""

    queue: "ColdQueue"
    joined: bool
    shed: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdQueue:
    """Waiting and running loads of one engine, as a value."""

    depth: int
    workers: int = 1
    waiting: tuple[Job, ...] = ()
    running: tuple[Job, ...] = ()
    arrivals: int = field(default=0)

    def job(self, digest: Digest) -> Job | None:
        """Return the job of a revision."""
        return next((job for job in (*self.running, *self.waiting) if job.digest == digest), None)

    def position(self, digest: Digest) -> int | None:
        """Return how many waiting jobs go before that of a revision; None when it has none that waits."""
        ranked = sorted(self.waiting, key=_rank)
        return next((at for at, job in enumerate(ranked) if job.digest == digest), None)

    def ask(self, digest: Digest, priority: Priority, *, load_seconds: Sequence[float]) -> Admission:
        """Join the job of a revision or queue a new one. Raises Overloaded when the queue is full.

        A full queue makes room for a more urgent job by shedding its last, least urgent one.
        ``load_seconds`` are recent measurements, for the refusal's estimate.
        """
        job = self.job(digest)
        if job is not None:
            urgent = replace(job, waiters=job.waiters + 1, priority=min(job.priority, priority))
            return Admission(queue=self._with(urgent), joined=True)
        new = Job(digest=digest, priority=priority, order=self.arrivals)
        queue = replace(self, arrivals=self.arrivals + 1)
        if len(self.waiting) < self.depth:
            return Admission(queue=replace(queue, waiting=(*self.waiting, new)), joined=False)
        last = max(self.waiting, key=_rank, default=None)
        if last is None or last.priority <= priority:
            raise Overloaded(
                what="cold queue",
                depth=len(self.waiting),
                retry_after_seconds=self.estimate_wait_seconds(load_seconds),
            )
        kept = tuple(job for job in self.waiting if job.digest != last.digest)
        return Admission(queue=replace(queue, waiting=(*kept, new)), joined=False, shed=last.digest)

    def start(self) -> "tuple[ColdQueue, Job | None]":
        """Move the most urgent waiting job to running, if a worker is free."""
        if not self.waiting or len(self.running) >= self.workers:
            return self, None
        job = min(self.waiting, key=_rank)
        waiting = tuple(other for other in self.waiting if other.digest != job.digest)
        return replace(self, waiting=waiting, running=(*self.running, job)), job

    def finish(self, digest: Digest) -> "ColdQueue":
        """Forget a running job, whatever became of it."""
        return replace(self, running=tuple(job for job in self.running if job.digest != digest))

    def leave(self, digest: Digest) -> "ColdQueue":
        """Take one waiter away; a job that still waits and that nobody wants any more is dropped."""
        job = self.job(digest)
        if job is None:
            return self
        left = replace(job, waiters=job.waiters - 1)
        if left.waiters == 0 and job in self.waiting:
            return replace(self, waiting=tuple(other for other in self.waiting if other is not job))
        return self._with(left)

    def estimate_wait_seconds(self, load_seconds: Sequence[float]) -> int:
        """Return in how many whole seconds the queue should have room: at least 1."""
        typical = sorted(load_seconds)[len(load_seconds) // 2] if load_seconds else 1.0
        loads_ahead = len(self.waiting) + len(self.running)
        return max(1, math.ceil(typical * loads_ahead / self.workers))

    def _with(self, changed: Job) -> "ColdQueue":
        def swap(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            return tuple(changed if job.digest == changed.digest else job for job in jobs)

        return replace(self, waiting=swap(self.waiting), running=swap(self.running))


def _rank(job: Job) -> tuple[int, int]:
    return job.priority, job.order
