"""Resumes jobs whose messages were lost, from the events that Postgres holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from mint_common.runtime.periodic import run_periodically
from services.rollout import metrics
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.engine_requests import all_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """Repeats the last events of a running job without progress for ``stall_seconds``.

    Each consumer that handled the event before repeats its own answer, so a repetition reaches the first
    service that missed its message. A request for a wave that still waits on the bus is not repeated:
    ``oldest_waiting`` says when the oldest such was published. A waiting job that no running job holds back
    is started.
    """

    commits: Commits
    start_next: Callable[[PolicyId], Awaitable[None]]
    oldest_waiting: Callable[[], Awaitable[float | None]]
    stall_seconds: float

    async def run(self) -> None:
        """Check the jobs until cancelled; outages of the database and the bus are survived."""
        pause = self.stall_seconds / 4
        clock = self.commits.clock
        await clock.sleep(pause)  # messages that the bus redelivers after a start count as progress
        async with asyncio.TaskGroup() as group:
            # Apart: a start draws prompts, which may take long.
            for work in (self.revive, self.start):
                group.create_task(run_periodically(work, name="watchdog", every_seconds=pause, clock=clock))

    async def revive(self) -> None:
        """Repeat the last events of every stalled job."""
        waiting_since = await self.oldest_waiting()
        if waiting_since is not None:
            # Clocks differ a little, and a request reaches the bus a moment after it is committed.
            waiting_since -= self.stall_seconds
        jobs, now = self.commits.jobs, self.commits.clock.now()
        before = now - self.stall_seconds
        for job in await jobs.claim_stalled(before=before, waiting_since=waiting_since, now=now):
            log.warning("job revived", extra={"job_id": job.job_id, "step": job.step, "cause": job.cause})
            for cause in (*job.earlier_causes, job.cause):
                await self.commits.ledger.repeat(cause)
            metrics.JOBS_REVIVED.inc()

    async def start(self) -> None:
        """Start waiting jobs that nothing holds back."""
        before = self.commits.clock.now() - self.stall_seconds
        await all_of(self._start(policy_id) for policy_id in await self.commits.jobs.overdue(before=before))

    async def _start(self, policy_id: PolicyId) -> None:
        try:
            await self.start_next(policy_id)
        except MintError as error:
            log.warning("job not started", extra={"policy_id": policy_id, "problem": str(error)})
