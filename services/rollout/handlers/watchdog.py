"""Revives jobs whose messages were lost: Postgres knows what a job waits on, whatever became of the bus."""

import logging
from collections.abc import Awaitable, Callable
from typing import Generic

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger import Ledger
from mint_common.runtime.periodic import run_periodically
from services.rollout import metrics
from services.rollout.ports import Connection, JobStore

log = logging.getLogger(__name__)


class Watchdog(Generic[Connection]):
    """Repeats the last events of a running job that shows no sign of life for ``patience_seconds``.

    Every consumer on the way knows what it has done already and repeats its own answer, so one repetition
    walks forward to the first service that missed its message. A job that waits for nothing is started.
    """

    def __init__(
        self,
        *,
        jobs: JobStore[Connection],
        ledger: Ledger[Connection],
        start_next: Callable[[PolicyId], Awaitable[None]],
        clock: Clock,
        patience_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._start_next = start_next
        self._clock = clock
        self._patience_seconds = patience_seconds

    async def run(self) -> None:
        """Look after the jobs until cancelled, through outages of the database."""
        pause = self._patience_seconds / 4
        await self._clock.sleep(pause)  # what the bus delivers again after a start is a sign of life
        await run_periodically(self.check, name="watchdog", every_seconds=pause, clock=self._clock)

    async def check(self) -> None:
        """Repeat the last events of every stalled job, and start what waits for nothing."""
        now = self._clock.now()
        for job in await self._jobs.claim_stalled(before=now - self._patience_seconds, now=now):
            log.warning("job revived", extra={"job_id": job.job_id, "step": job.step, "cause": job.cause})
            await self._ledger.repeat(job.cause)
            metrics.JOBS_REVIVED.inc()
        for policy_id in await self._jobs.overdue(before=now - self._patience_seconds):
            try:
                await self._start_next(policy_id)
            except MintError as error:
                log.warning("job not started", extra={"policy_id": policy_id, "problem": str(error)})
