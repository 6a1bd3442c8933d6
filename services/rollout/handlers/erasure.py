"""Erases blobs of ended jobs, and answers of evaluation runs over files that were deleted.

Invariants: no blob goes that a job which has not ended, or the training of any policy, may still read. What
is erased is a function of rows, so a process that is killed leaves it to the next look; erasing again erases
nothing else. A look does a bounded piece of work.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from mint_common.blobs.port import Blobs
from mint_common.bounds import DAY_SECONDS
from mint_common.errors import MintError
from mint_common.events import Event, PolicyRemoved
from mint_common.ids import BaseName
from mint_common.runtime.clock import Clock
from mint_common.runtime.periodic import run_periodically
from services.rollout.adapters.erasures_postgres import PostgresErasures
from services.rollout.adapters.peers import Trainers
from services.rollout.core.erasure import AWAY_SECONDS, RETRY_SECONDS, EndedJob, plan_erasure

JOBS_AT_ONCE = 16
KEYS_AT_ONCE = 1024
"""Maximum keys of a job that one look erases."""
ERASE_SECONDS = 5.0
"""Interval of the erasure sweep; a look that finds nothing is one query."""
DELETED_AT_ONCE = 8
RUNS_AT_ONCE = 16
FILES_KEPT_SECONDS = 7 * DAY_SECONDS
"""Time that a run may go on over a deleted file."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eraser:
    """Erases blobs of jobs that ended ``keep_seconds`` ago, or that read a file which is gone."""

    erasures: PostgresErasures
    records: Trainers
    blobs: Blobs
    clock: Clock
    keep_seconds: float
    _away: dict[BaseName, float] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        """Erase until cancelled, through outages of the database and of the blob store."""
        await run_periodically(self.erase, name="erasure", every_seconds=ERASE_SECONDS, clock=self.clock)

    async def on_policy_removed(self, event: PolicyRemoved) -> Sequence[Event]:
        """Erase what the jobs of a removed policy left, from the next look on."""
        await self.erasures.erase_policy(event.tenant_id, event.policy_id)
        return ()

    async def erase(self) -> None:
        """Erase all that may go now."""
        while await self.look():
            continue
        await self.erasures.forget_files(before=self.clock.now() - FILES_KEPT_SECONDS)

    async def look(self) -> bool:
        """Erase a bounded part of the erasable blobs; return whether there may be more."""
        now = self.clock.now()
        jobs = await self.erasures.claim(
            before=now - self.keep_seconds, now=now, next_at=now + RETRY_SECONDS, limit=JOBS_AT_ONCE
        )
        for job in jobs:
            try:
                await self._erase_blobs(job)
            except MintError as error:
                extra = {"job_id": job.job_id, "problem": str(error)}
                _log.warning("blobs of a job not erased yet", extra=extra)
                await self.erasures.settle(job, next_at=now + AWAY_SECONDS, now=now)
        runs = await self.erasures.erase_runs(limit=RUNS_AT_ONCE)
        return bool(jobs) or runs == RUNS_AT_ONCE

    async def _erase_blobs(self, job: EndedJob) -> None:
        keys = [key async for key in self.blobs.list(job.prefix)]
        needed = await self._needed(job) if keys and job.is_recorded else frozenset()
        now = self.clock.now()
        plan = plan_erasure(job, keys, needed, most=KEYS_AT_ONCE, now=now)
        for begin in range(0, len(plan.keys), DELETED_AT_ONCE):
            together = plan.keys[begin : begin + DELETED_AT_ONCE]
            await asyncio.gather(*map(self.blobs.delete, together))
        if plan.keys:
            _log.info("blobs of a job erased", extra={"job_id": job.job_id, "blobs": len(plan.keys)})
        await self.erasures.settle(job, next_at=plan.next_at, now=now)

    async def _needed(self, job: EndedJob) -> frozenset[str] | None:
        """Return the records that training may still read; None where its trainer does not answer."""
        now = self.clock.now()
        if now < self._away.get(job.base, now):
            return None
        try:
            return await self.records.release(job)
        except MintError as error:
            self._away[job.base] = now + AWAY_SECONDS
            _log.warning("records not erased yet", extra={"base": job.base, "problem": str(error)})
            return None
