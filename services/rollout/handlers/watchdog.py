"""Revives jobs whose messages were lost: Postgres knows what a job waits on, whatever became of the bus."""

import logging
from typing import Generic

from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger import Ledger
from services.rollout.ports import Connection, JobStore, RolloutMeter

log = logging.getLogger(__name__)


class Watchdog(Generic[Connection]):
    """Repeats the last events of a running job that shows no sign of life for ``patience_seconds``.

    Every consumer on the way knows what it has done already and repeats its own answer, so one repetition
    walks forward to the first service that missed its message.
    """

    def __init__(
        self,
        *,
        jobs: JobStore[Connection],
        ledger: Ledger[Connection],
        meter: RolloutMeter,
        clock: Clock,
        patience_seconds: float,
    ) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._meter = meter
        self._clock = clock
        self._patience_seconds = patience_seconds

    async def run(self) -> None:
        """Look after the jobs until cancelled."""
        while True:
            await self._clock.sleep(self._patience_seconds / 4)
            await self.check()

    async def check(self) -> None:
        """Repeat the last events of every stalled job."""
        now = self._clock.now()
        for job in await self._jobs.claim_stalled(before=now - self._patience_seconds, now=now):
            log.warning("job revived", extra={"job_id": job.job_id, "step": job.step, "cause": job.cause})
            await self._ledger.repeat(job.cause)
            self._meter.job_revived()
