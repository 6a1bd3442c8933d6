"""Jobs whose revisions are measured by sampling: an evaluation run for each, and the effects of its end.

A run's id is derived from its job and step. The job continues meanwhile; after its last step it waits until
each of its runs has ended, with any result.
"""

from collections.abc import Sequence
from dataclasses import replace

from mint_common.authority import Authority, Caller
from mint_common.events import EvaluationPlan, JobData
from mint_common.ids import derive_id
from services.rollout.core.environment_plan import evaluated_in
from services.rollout.core.evaluation import EvaluationData, EvaluationRun
from services.rollout.core.job import Advance, Job, is_unscored
from services.rollout.core.job_control import is_over
from services.rollout.core.job_end import complete, early_stop
from services.rollout.core.validation import is_evaluated, measured_file
from services.rollout.core.wave import Wave


def suite_of(job: Job) -> str:
    """Return the suite that the scores of a job's revisions are recorded in."""
    return f"job:{job.job_id}"


def signer_of(job: Job) -> Caller:
    """Return who signs the scores of a job's revisions: the job itself."""
    name = suite_of(job)
    authority = Authority(tenant_id=job.tenant_id, key_id=name, scopes=frozenset({"train"}))
    return Caller(authority=authority, name=name)


def measured_steps(job: Job) -> list[int]:
    """Return the steps that are done and whose revisions are measured."""
    steps = range(1, job.steps_done + 1)
    return [step for step in steps if is_evaluated(job.plan, step=step, steps=job.spec.steps)]


def scoring_run(job: Job, wave: Wave, *, now: float) -> EvaluationRun:
    """Return the run that measures a wave's revision: an answer to each row, graded, or episodes."""
    spec, plan = job.spec, job.plan
    assert plan is not None, job
    return EvaluationRun(
        run_id=derive_id("evr", job.job_id, wave.step),
        tenant_id=job.tenant_id,
        base=job.base,
        policy_id=job.policy_id,
        policy=job.policy_id,
        revision=wave.revision,
        task="",
        suite=suite_of(job),
        metric="valid_reward_mean",
        data=None if spec.data is None else _rows(spec.data, plan),
        environment=None if spec.environment is None else evaluated_in(spec.environment, plan),
        n=plan.rows,
        samples=plan.samples,
        seed=spec.seed,
        temperature=spec.temperature,
        max_new_tokens=spec.max_new_tokens,
        caller=signer_of(job),
        created_at=now,
    )


def _rows(data: JobData, plan: EvaluationPlan) -> EvaluationData:
    measured = measured_file(data, plan)
    return EvaluationData(
        file=measured.file, holdout=measured.holdout, grader=data.grader, on_long=data.on_long
    )


def scored_wave(wave: Wave, run: EvaluationRun, *, now: float) -> Wave:
    """Return the wave with what its run came to; one that gave no score is over too."""
    if run.value is None:
        return replace(wave, scored_at=now)
    counts = replace(wave.counts, validation_rows=run.scored)
    return replace(wave, scored_at=now, counts=counts, metrics={**wave.metrics, run.metric: run.value})


def on_score(job: Job, waves: Sequence[Wave], *, now: float) -> Advance:
    """Return the job after a score: it may stop early, or have waited for its last one.

    ``waves`` are all of the job, the scored one included.
    """
    if is_over(job):
        return Advance(job=job)
    if job.steps_done >= job.spec.steps:
        waits = any(wave.revision is not None and is_unscored(job, wave) for wave in waves)
        return Advance(job=job) if waits else complete(job, waves, now=now)
    stopped = early_stop(job, waves)
    if not stopped:
        return Advance(job=job)
    return complete(replace(job, stopped_early=True), waves, note=stopped, cancels=job.open_steps, now=now)
