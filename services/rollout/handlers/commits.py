"""Transactions that change a job."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mint_common.claims import Claim
from mint_common.errors import AlreadyHandled
from mint_common.events import Event
from mint_common.ids import JobId, WaveId
from mint_common.runtime.clock import Clock
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from mint_common.runtime.postgres_errors import PostgresConnection
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.fault import JobFault
from services.rollout.core.job import Advance, Fact, Job
from services.rollout.core.job_control import pause, resume, stop
from services.rollout.core.job_scores import on_score, scored_wave
from services.rollout.core.job_steps import advance, needs_waves
from services.rollout.core.wave import Wave, WaveCounts, fold, wave_id_in


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveDetails:
    """Row counts of a wave, or the fault in its data."""

    counts: WaveCounts | None = None
    fault: JobFault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commits:
    """Writes jobs, their waves and their events in one transaction."""

    jobs: PostgresJobs
    ledger: PostgresLedger
    clock: Clock

    async def commit(
        self,
        fact: Fact,
        *,
        job_id: JobId,
        cause: str,
        prompts: Mapping[int, Claim] | None = None,
        details: WaveDetails | None = None,
    ) -> None:
        """Apply an event to a job. A cause that was committed before has no effect.

        ``prompts`` are those of the steps that it requests. Raises Unavailable as `advance` does.
        """
        details = details or WaveDetails()
        with suppress(AlreadyHandled):
            async with self.ledger.transaction(cause) as transaction:
                job = await self.jobs.lock(transaction.connection, job_id)
                now, waves = self.clock.now(), await self._waves_after(transaction.connection, job, fact)
                moved = advance(
                    job, fact, cause=cause, prompts=prompts or {}, waves=waves, fault=details.fault, now=now
                )
                await self.write(transaction, fact, moved, counts=details.counts)

    async def score(self, job_id: JobId, wave_id: WaveId, run: EvaluationRun) -> None:
        """Apply the end of a wave's evaluation run. Repetitions have no effect."""
        with suppress(AlreadyHandled):
            async with self.ledger.transaction(f"scored:{run.run_id}") as transaction:
                job = await self.jobs.lock(transaction.connection, job_id)
                now = self.clock.now()
                waves = [
                    scored_wave(wave, run, now=now) if wave.wave_id == wave_id else wave
                    for wave in await self.jobs.waves_of(job_id, within=transaction.connection)
                ]
                scored = [wave for wave in waves if wave.wave_id == wave_id]
                await self.write(transaction, None, on_score(job, waves, now=now), scored=scored)

    async def _waves_after(self, connection: PostgresConnection, job: Job, fact: Fact) -> list[Wave]:
        """Return a job's waves after an event that may end it; none for another one."""
        if not needs_waves(job, fact):
            return []
        waves = await self.jobs.waves_of(job.job_id, within=connection)
        now = self.clock.now()
        return [
            (fold(wave, fact, now=now) or wave) if wave.wave_id == fact.wave_id else wave for wave in waves
        ]

    async def cancel(self, job_id: JobId) -> None:
        """Cancel a job for its user. No effect after its end."""
        how = partial(stop, outcome="cancelled", reason="cancelled by its user")
        await self._change(job_id, how, cause=f"cancel:{job_id}")

    async def pause(self, job: Job) -> None:
        """Stop a job after its open waves. Raises InvalidField after its end."""
        await self._change(job.job_id, pause, cause=f"pause:{job.job_id}:{job.controls}")

    async def resume(self, job: Job, prompts: Mapping[int, Claim]) -> None:
        """Let a job go on, with the prompts of its next steps. Raises InvalidField, Unavailable."""
        cause = f"resume:{job.job_id}:{job.controls}"
        await self._change(job.job_id, partial(resume, prompts=prompts, cause=cause), cause=cause)

    async def give_up(self, job_id: JobId, *, cause: str, reason: str) -> None:
        """Fail a job whose next event cannot be handled. No effect after its end."""
        await self._change(job_id, partial(stop, outcome="failed", reason=reason), cause=cause)

    async def _change(self, job_id: JobId, how: Callable[..., Advance], *, cause: str) -> None:
        with suppress(AlreadyHandled):
            async with self.ledger.transaction(cause) as transaction:
                job = await self.jobs.lock(transaction.connection, job_id)
                await self.write(transaction, None, how(job, now=self.clock.now()))

    async def write(
        self,
        transaction: PostgresTransaction,
        fact: Fact | None,
        moved: Advance,
        *,
        counts: WaveCounts | None = None,
        scored: Sequence[Wave] = (),
    ) -> None:
        """Write a changed job with its waves, ``scored`` ones among them, and emit the events."""
        facts = [event for event in (fact, *moved.events) if event is not None]
        waves = await self._fold(transaction.connection, facts, counts)
        await self.jobs.save(transaction.connection, moved.job, [*scored, *waves])
        await transaction.emit(*moved.events)

    async def _fold(
        self, connection: PostgresConnection, facts: Iterable[Event], counts: WaveCounts | None
    ) -> list[Wave]:
        now = self.clock.now()
        touched: dict[WaveId, Wave] = {}
        for fact in facts:
            wave_id = wave_id_in(fact)
            if wave_id is None:
                continue
            known = touched.get(wave_id) or await self.jobs.wave(wave_id, within=connection)
            folded = fold(known, fact, counts=counts, now=now)
            if folded is not None:
                touched[wave_id] = folded
        return list(touched.values())
