"""Carries out evaluation runs.

Invariants: a run is stored before it is answered, and claimed by one process at a time; a run whose process
was killed shows no progress, is claimed again, and gives the same requests. Its score is recorded in the
registry before the run counts as finished; a repeated score is stored once there. The work on a run that is
cancelled ends within a second. An error of ours fails the run that met it, and no other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mint_common.errors import MintError, Unavailable, trace_of
from mint_common.records import Prompt
from mint_common.runtime.clock import Clock
from mint_common.waiting import cancel_all
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.peers import RegistryRecords
from services.rollout.core.evaluation import (
    EvaluationRun,
    RunState,
    ScoredRow,
    ScoredRows,
    failed,
    graded_row,
    plan_answer,
    prompts_seed,
    reason_of,
    scored,
)
from services.rollout.core.fault import internal_reason
from services.rollout.core.sampling import check_revision
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.handlers.episode_scores import EpisodeScores
from services.rollout.handlers.file_scores import FileScores
from services.rollout.handlers.task_scores import TaskScores
from services.rollout.ports import Tasks

log = logging.getLogger(__name__)

RUNS_AT_ONCE = 4
TENANT_RUNS_AT_ONCE = 2
"""Maximum concurrent runs of one tenant, so that its long runs leave places to others."""
PROMPTS_AT_ONCE = 64
"""Prompts of one run queued at an engine; limits the wait of later runs."""
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationHandler:
    """Executes claimed runs. Another process may claim a run after ``stall_seconds`` without progress.

    A run fails when a grader failed on more than ``error_share`` of its answers.
    """

    runs: PostgresEvaluationRuns
    tasks: Tasks
    sampler: EngineSampler
    files: FileScores
    episodes: EpisodeScores
    scores: RegistryRecords
    requests: EngineRequests
    clock: Clock
    stall_seconds: float
    error_share: float
    _scored: Counter[str] = field(default_factory=Counter, init=False)

    async def run(self) -> None:
        """Carry out runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(RUNS_AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            try:
                is_idle = not await self._next()
            except MintError as error:
                # Nobody claims it before it has stalled: the pause of a later try.
                log.warning("evaluation run broken off", extra={"problem": str(error)})
                is_idle = True
            if is_idle:
                await self.clock.sleep(POLL_SECONDS)

    async def _next(self) -> bool:
        """Carry out a run; return whether there was one."""
        now = self.clock.now()
        before = now - self.stall_seconds
        run = await self.runs.claim(before=before, now=now, of_a_tenant=TENANT_RUNS_AT_ONCE)
        if run is None:
            return False
        work, pulse = asyncio.ensure_future(self._carry_out(run)), asyncio.ensure_future(self._pulse(run))
        try:
            await asyncio.wait((work, pulse), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await self._finish(*work.result())
            else:
                pulse.result()
        finally:
            await cancel_all(work, pulse)
            del self._scored[run.run_id]
        log.info("evaluation run ended", extra={"run_id": run.run_id})
        return True

    async def _carry_out(self, run: EvaluationRun) -> tuple[EvaluationRun, ScoredRows]:
        """Return the run as it ended, with its rows."""
        found = ScoredRows()
        try:
            found = await self._rows(run)
            ended = scored(run, found, error_share=self.error_share, now=self.clock.now())
            if ended.state is RunState.SUCCEEDED and ended.revision is not None:
                await self.scores.record(ended)
        except MintError as error:
            if error.retryable:
                raise
            return failed(run, reason_of(run, error), now=self.clock.now()), found
        except Exception as error:  # noqa: BLE001  (a run that ended the service would be claimed again)
            return self._failed(run, error), ScoredRows()
        return ended, found

    async def _finish(self, run: EvaluationRun, found: ScoredRows) -> None:
        """Store how a run ended; one that cannot be stored has failed."""
        try:
            await self.runs.finish(run, found.rows)
        except MintError:
            raise
        except Exception as error:  # noqa: BLE001  (as above)
            await self.runs.finish(self._failed(run, error), ())

    def _failed(self, run: EvaluationRun, error: Exception) -> EvaluationRun:
        log.error("evaluation run failed", extra={"run_id": run.run_id, "error": trace_of(error)})
        return failed(run, internal_reason(error), now=self.clock.now())

    async def _rows(self, run: EvaluationRun) -> ScoredRows:
        """Return the scored rows."""

        def note() -> None:
            self._scored[run.run_id] += 1

        if run.data is not None:
            scored_rows, dropped = await self.files.rows(run, run.data, note)
            return ScoredRows(rows=scored_rows, dropped=dropped)
        if run.environment is not None:
            return await self.episodes.rows(run, run.environment, note)
        prompts = await self.tasks.draw(
            run.task, "heldout", run.n, prompts_seed(run), tenant_id=run.tenant_id
        )
        scores = TaskScores(
            self.tasks, run.task, tenant_id=run.tenant_id, total=run.n, max_faults=self.error_share
        )
        rows: list[ScoredRow] = []
        for begin in range(0, len(prompts), PROMPTS_AT_ONCE):
            block = enumerate(prompts[begin : begin + PROMPTS_AT_ONCE], start=begin)
            rows += await all_of(self._row(run, scores, place, prompt, note) for place, prompt in block)
        return ScoredRows(rows=rows)

    async def _row(
        self,
        run: EvaluationRun,
        scores: TaskScores,
        place: int,
        prompt: Prompt,
        note: Callable[[], None],
    ) -> ScoredRow:
        request = plan_answer(run, place, prompt=prompt.text)
        sampled = await self.requests.retried(run.tenant_id, lambda: self.sampler.sample(request))
        check_revision(request, sampled)
        text = sampled.completions[0].text
        (grade,) = await scores.grades([(prompt.entry, text)])
        note()
        return graded_row(place + 1, text, grade)

    async def _pulse(self, run: EvaluationRun) -> None:
        """Record progress until the run is cancelled."""
        is_running = True
        while is_running:
            await self.clock.sleep(min(1.0, self.stall_seconds / 4))
            try:
                scored_now = self._scored[run.run_id]
                is_running = await self.runs.touch(run.run_id, scored=scored_now, now=self.clock.now())
            except Unavailable as error:
                log.info("progress not recorded", extra={"reason": str(error)})
