"""Handlers that complete a wave: sample on the engines, score, record.

Invariants:
- Every sample of a record was answered by the revision that the wave names.
- An engine that is away or full is asked again for hours, one that fails 3 times in all (`CallAttempts`); any
  other failure, an error of ours too, cancels the wave.
- A process works on one copy of a wave at a time, and on none of one that is recorded.
- The record's key has its digest: a wave that is worked on twice at once has one committed record.
- A tenant's waves leave turns to other tenants'. A wave that waits for agents elsewhere holds no turn of the
  others and no message: its job's last event, which the watchdog repeats, brings it back after a crash.
- A drain never waits for a wave: the message is given back and the wave sampled again with the same seeds.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import MintError, Unavailable, trace_of
from mint_common.events import Event, WaveCancelled, WaveCompleted, WaveRequested
from mint_common.ids import JobId, WaveId
from mint_common.records import WaveRecord
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.retries import Bury, decide
from mint_common.waiting import cancel_all
from services.rollout import metrics
from services.rollout.core.fault import fault_of, internal_reason
from services.rollout.core.job_end import wave_cancelled
from services.rollout.core.sampling import completed
from services.rollout.core.wave import WaveCounts
from services.rollout.handlers.commits import Commits, WaveDetails
from services.rollout.handlers.environment_waves import EnvironmentWaves
from services.rollout.handlers.file_waves import FileWaves
from services.rollout.handlers.record_blobs import store_record
from services.rollout.handlers.task_waves import TaskWaves
from services.rollout.handlers.teacher_scores import TeacherScores

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 20
"""Attempts at a wave that waits for agents, if they end with another failure than an outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveHandlers:
    """Handlers of events about waves. A wave at work records progress every ``pulse_seconds``.

    ``agent_turns`` are those of the waves whose episodes agents elsewhere run.
    """

    commits: Commits
    blobs: Blobs
    tasks: TaskWaves
    files: FileWaves
    environments: EnvironmentWaves
    teachers: TeacherScores
    turns: FairGate
    agent_turns: FairGate
    pulse_seconds: float
    _draining: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _in_hand: set[WaveId] = field(default_factory=set, init=False)
    _apart: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def run(self, work: Dispatcher) -> None:
        """Run the dispatcher of these handlers; when cancelled, make them give their messages back first."""
        running = asyncio.ensure_future(work.run())
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            self.drain()
            running.cancel()
            await running
            raise
        finally:
            await cancel_all(*self._apart)

    def drain(self) -> None:
        """Give back the messages of all running waves, and of those that start from now on."""
        self._draining.set()

    async def on_wave_requested(self, event: WaveRequested) -> Sequence[Event]:
        """Sample, score and record the wave; drop it when its job has ended."""
        if event.wave_id in self._in_hand:
            return ()  # a repetition: the copy in hand comes again if this process ends
        self._in_hand.add(event.wave_id)
        if _is_for_agents(event):
            task = asyncio.create_task(self._apart_from_its_message(event))
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)
            return ()
        try:
            await self._once(event)
        finally:
            self._in_hand.discard(event.wave_id)
        return ()

    async def _once(self, event: WaveRequested) -> None:
        if not await self.commits.ledger.is_known(event.id):
            await self._work_on(event)

    async def _apart_from_its_message(self, event: WaveRequested) -> None:
        """Work on a wave, with as many attempts as dispatch gives others."""
        try:
            for attempt in itertools.count(1):
                delay_seconds = await self._attempted(event, attempt)
                if delay_seconds is None:
                    return
                await self.commits.clock.sleep(delay_seconds)
        finally:
            self._in_hand.discard(event.wave_id)

    async def _attempted(self, event: WaveRequested, attempt: int) -> float | None:
        """Work on a wave; return when to try again, None: not again."""
        try:
            await self._once(event)
        except Exception as error:  # noqa: BLE001  (as dispatch, which is done with this wave)
            if self._draining.is_set():
                return None
            told = {"wave_id": event.wave_id, "attempt": attempt, "error": trace_of(error)}
            log.warning("wave failed", extra=told)
            decision = decide(error, attempt=attempt, max_attempts=MAX_ATTEMPTS, jitter=random.random())
            if not isinstance(decision, Bury):
                return decision.delay_seconds
            with suppress(Unavailable):  # the watchdog repeats the event
                await self.on_wave_given_up(event, decision)
        return None

    async def _work_on(self, event: WaveRequested) -> None:
        job = await self.commits.jobs.job(event.job_id)
        if not await self.commits.jobs.touch(job.job_id, now=self.commits.clock.now()):
            return
        done = await self._while_job_runs(job.job_id, self._in_turn(event))
        if done is not None:
            fact, details = done
            await self.commits.commit(fact, job_id=job.job_id, cause=event.id, details=details)

    async def on_wave_given_up(self, event: WaveRequested, decision: Bury) -> None:
        """Cancel a wave that cannot be handled; that fails its job."""
        fact = self._cancelled(event, decision.reason)
        await self.commits.commit(fact, job_id=event.job_id, cause=event.id)

    async def _in_turn(
        self, event: WaveRequested
    ) -> tuple[WaveCompleted | WaveCancelled, WaveDetails] | None:
        turns = self.agent_turns if _is_for_agents(event) else self.turns
        async with turns.turn(event.tenant_id):
            if await self.commits.ledger.is_known(event.id):
                return None  # another process was faster
            return await self._complete(event)

    def _cancelled(self, event: WaveRequested, reason: str) -> WaveCancelled:
        metrics.WAVES_CANCELLED.labels(event.spec.algorithm).inc()
        return wave_cancelled(event, reason)

    async def _complete(self, event: WaveRequested) -> tuple[WaveCompleted | WaveCancelled, WaveDetails]:
        started = self.commits.clock.monotonic()
        # All that is logged of a failure: the text of an error may quote a row.
        names = {"job_id": event.job_id, "wave_id": event.wave_id}
        try:
            record, validation, counts = await self._record(event)
            record = await self.teachers.added(event, record)
            claim = await store_record(
                self.blobs,
                record,
                policy_id=event.policy_id,
                job_id=event.job_id,
                name=str(event.step),
            )
            fact = completed(event, record, claim, validation=validation)
        except MintError as error:
            if error.retryable:
                raise
            fault = fault_of(error, event.spec.data)
            where = {} if fault is None else {"param": fault.param, "line": fault.line}
            log.warning("wave cancelled", extra={**names, "code": error.code, **where})
            return self._cancelled(event, str(error)), WaveDetails(fault=fault)
        except Exception as error:  # noqa: BLE001  (dispatch would have the whole wave sampled again)
            log.error("wave cancelled", extra={**names, "error": trace_of(error)})  # noqa: TRY400
            return self._cancelled(event, internal_reason(error)), WaveDetails()
        for kind, count in counts.grader_errors.items():
            metrics.GRADER_ERRORS.labels(kind).inc(count)
        self._measure(event, record, fact, seconds=self.commits.clock.monotonic() - started)
        return fact, WaveDetails(counts=counts)

    async def _record(self, event: WaveRequested) -> tuple[WaveRecord, Claim | None, WaveCounts]:
        """Return the record, the validation record, and the counts of the wave."""
        if event.spec.environment is not None:
            record, counts = await self.environments.complete(event, event.spec.environment)
            return record, None, counts
        if event.spec.data is not None:
            done = await self.files.complete(event, event.spec.data)
            return done.record, done.validation, done.counts
        record, counts = await self.tasks.complete(event)
        return record, None, counts

    def _measure(
        self, event: WaveRequested, record: WaveRecord, fact: WaveCompleted, *, seconds: float
    ) -> None:
        samples = sum(len(group.samples) for group in record.groups)
        metrics.observe_wave(
            event.spec.algorithm, samples=samples, reward_mean=fact.reward_mean, seconds=seconds
        )
        log.info(
            "wave recorded",
            extra={
                "wave_id": event.wave_id,
                "step": event.step,
                "samples": samples,
                "reward_mean": fact.reward_mean,
                "seconds": seconds,
            },
        )

    async def _while_job_runs(self, job_id: JobId, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of the work, or None when its job ends first. Raises Unavailable on a drain."""
        working = asyncio.ensure_future(work)
        pulse = asyncio.ensure_future(self._pulse(job_id))
        drain = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((working, pulse, drain), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if pulse.done():
                return pulse.result()
            raise Unavailable(what="this rollout process", problem="it is draining")
        finally:
            await cancel_all(working, pulse, drain)

    async def _pulse(self, job_id: JobId) -> None:
        """Record progress for the watchdog; return when the job has ended."""
        while True:
            try:
                if not await self.commits.jobs.touch(job_id, now=self.commits.clock.now()):
                    return
            except Unavailable as error:
                log.info("progress not recorded", extra={"reason": str(error)})
            await self.commits.clock.sleep(self.pulse_seconds)


def _is_for_agents(event: WaveRequested) -> bool:
    """Return whether agents elsewhere run a wave's episodes."""
    return event.spec.environment is not None and event.spec.environment.is_session
