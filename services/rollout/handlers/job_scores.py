"""Follow the evaluation runs of jobs that are measured by sampling.

Invariant: due actions follow from rows alone, so that neither a killed process nor a run that its
tenant cancelled leaves a job waiting. A run is added once, and its end is applied once.
"""

import logging
from dataclasses import dataclass

from mint_common.errors import MintError, NotFound
from mint_common.runtime.periodic import run_periodically
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.core.evaluation import EvaluationRun, RunState
from services.rollout.core.job import Job
from services.rollout.core.job_scores import measured_steps, scoring_run
from services.rollout.handlers.commits import Commits

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScores:
    """Has the revisions of jobs scored."""

    commits: Commits
    runs: PostgresEvaluationRuns

    async def run(self) -> None:
        """Check the jobs until cancelled."""
        await run_periodically(
            self.check, name="scores of jobs", every_seconds=CHECK_SECONDS, clock=self.commits.clock
        )

    async def check(self) -> None:
        """Start due runs, apply ended ones, and end the runs of ended jobs."""
        now = self.commits.clock.now()
        await self.runs.cancel_of_ended_jobs(now=now)
        for job in await self.commits.jobs.scored_by_runs():
            try:
                await self._follow(job, now=now)
            except MintError as error:
                log.warning("job not scored", extra={"job_id": job.job_id, "problem": str(error)})

    async def _follow(self, job: Job, *, now: float) -> None:
        if job.steps_done >= job.spec.steps:
            await self.commits.jobs.touch(job.job_id, now=now)  # it waits for nothing else
        for wave in await self.commits.jobs.unscored_waves(job.job_id, measured_steps(job)):
            run = await self._begun(scoring_run(job, wave, now=now))
            if run.state is not RunState.RUNNING:
                await self.commits.score(job.job_id, wave.wave_id, run)

    async def _begun(self, run: EvaluationRun) -> EvaluationRun:
        """Return the run as it is stored, which it is from now on."""
        try:
            return await self.runs.run(run.tenant_id, run.run_id)
        except NotFound:
            (stored,) = await self.runs.add([run], max_open=None)
            return stored
