"""A managed job: a chain of waves, each sampled at the newest revision that the job has published.

Invariants:
- A policy has one writer: at most one of its jobs runs; the others wait in order of submission.
- A wave's step counts from 1 and its id is derived from (job, step). The waves of the steps after
  ``steps_done`` up to ``requested`` are open, at most ``staleness`` + 1 of them. That of step s is requested
  once step s - 1 - ``staleness`` is published: its samples are at most ``staleness`` steps older than the
  weights that they change. These numbers are rows, so a restart requests nothing twice.
- Steps are published in order. Only an event of an open wave changes a job, so duplicate and late events
  have no effect. The end of a job cancels its open waves.
- A paused job has no open wave, and continues at the revision where it stopped; its policy's others wait.
- A finished job never changes again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mint_common.claims import RevisionRef
from mint_common.events import (
    EvaluationPlan,
    Event,
    JobSpec,
    JobSubmitted,
    LoraSpec,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveCancelled,
    WaveCompleted,
)
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId, derive_id
from services.rollout.core.fault import JobFault
from services.rollout.core.fine_tuning.records import FineTuning
from services.rollout.core.validation import is_evaluated
from services.rollout.core.wave import Wave

Fact = WaveCompleted | WaveCancelled | RevisionPublished | RevisionRejected | TrainingFailed
"""Events that can change a running job."""


class JobState(StrEnum):
    """The state of a job."""

    SUBMITTED = "submitted"
    """It waits for the earlier jobs of its policy."""
    RUNNING = "running"
    PAUSED = "paused"
    """It waits for its user to resume it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job after its last event.

    ``revision`` is the one that the next wave samples at: the newest that the job published, at first the
    policy's newest. ``cause`` is the newest ledger cause of events that the job waits for, and
    ``earlier_causes`` may be those of others; repeating them resumes a job whose messages were lost.
    ``progress_at`` is the time of the last progress.

    ``result`` is the revision of a succeeded job, ``fault`` the fault in a failed one's data. A job
    that ``is_pausing`` stops after its open waves; ``controls`` counts pauses and resumptions.

    ``policy`` is the policy's name when the job was submitted; ``warnings`` are for its user.
    ``fine_tuning`` is of a job on a file. ``idle_steps`` counts the newest steps in a row without a signal.
    """

    tenant_id: TenantId
    base: BaseName
    job_id: JobId
    policy_id: PolicyId
    lora: LoraSpec
    spec: JobSpec
    state: JobState
    reason: str
    steps_done: int
    revision: RevisionRef | None
    cause: str
    created_at: float
    progress_at: float
    finished_at: float | None
    result: RevisionRef | None = None
    stopped_early: bool = False
    fault: JobFault | None = None
    is_pausing: bool = False
    controls: int = 0
    policy: str = ""
    warnings: tuple[str, ...] = ()
    fine_tuning: FineTuning | None = None
    requested: int = 0
    idle_steps: int = 0
    earlier_causes: tuple[str, ...] = ()

    @property
    def plan(self) -> EvaluationPlan | None:
        """Return how its revisions are measured, if they are."""
        return self.spec.evaluation

    @property
    def is_for_agents(self) -> bool:
        """Return whether agents elsewhere run its episodes."""
        return self.spec.environment is not None and self.spec.environment.is_session

    @property
    def step(self) -> int:
        """Return the step that is published next."""
        return self.steps_done + 1

    @property
    def open_steps(self) -> range:
        """Return the steps with an open wave; only a job that runs has any."""
        if self.state is not JobState.RUNNING:
            return range(0)
        # A version without ``requested`` may have advanced the job.
        last = min(max(self.requested, self.step), self.spec.steps)
        return range(self.step, last + 1)

    @property
    def due_steps(self) -> range:
        """Return the steps to request now."""
        return range(max(self.requested, self.steps_done) + 1, self._window_end + 1)

    @property
    def _window_end(self) -> int:
        return min(self.step + self.spec.staleness, self.spec.steps)

    def open_step(self, wave_id: WaveId | None) -> int | None:
        """Return the step of an open wave, None for another wave."""
        steps = (step for step in self.open_steps if wave_id_of(self.job_id, step) == wave_id)
        return next(steps, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """A job after an event, and the events to emit."""

    job: Job
    events: tuple[Event, ...] = ()


def wave_id_of(job_id: JobId, step: int) -> WaveId:
    """Return the id of a job's wave."""
    return WaveId(derive_id("wave", job_id, step))


def open_job(
    event: JobSubmitted,
    *,
    policy: str = "",
    warnings: Sequence[str] = (),
    fine_tuning: FineTuning | None = None,
    now: float,
) -> Job:
    """Return the waiting job of a submission."""
    return Job(
        tenant_id=event.tenant_id,
        base=event.base,
        job_id=event.job_id,
        policy_id=event.policy_id,
        lora=event.lora,
        spec=event.spec,
        state=JobState.SUBMITTED,
        reason="",
        steps_done=0,
        revision=None,
        cause=event.id,
        created_at=now,
        progress_at=now,
        finished_at=None,
        policy=policy,
        warnings=tuple(warnings),
        fine_tuning=fine_tuning,
    )


def is_measured(job: Job) -> bool:
    """Return whether the revision of the job's open step is measured."""
    return is_evaluated(job.plan, step=job.step, steps=job.spec.steps)


def is_scored_by_runs(job: Job) -> bool:
    """Return whether evaluation runs measure the job's revisions, by sampling, and not the trainer."""
    return job.plan is not None and job.spec.is_sampled


def is_unscored(job: Job, wave: Wave) -> bool:
    """Return whether an evaluation run measures the wave's revision, once there is one, and has not ended."""
    is_run = is_scored_by_runs(job) and is_evaluated(job.plan, step=wave.step, steps=job.spec.steps)
    return is_run and wave.scored_at is None
