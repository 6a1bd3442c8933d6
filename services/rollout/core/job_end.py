"""The end of a job: what it says, which revision it leaves, and which open waves it cancels."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal

from mint_common.claims import RevisionRef
from mint_common.events import JobFinished, WaveCancelled, WaveRequested
from services.rollout.core.fault import storable
from services.rollout.core.job import Advance, Job, JobState, is_unscored, wave_id_of
from services.rollout.core.outcome import idle_stop, judge
from services.rollout.core.validation import best_score, scores_of, stops_early
from services.rollout.core.wave import Wave


def finish(
    job: Job,
    outcome: Literal["succeeded", "failed", "cancelled"],
    reason: str,
    *,
    cancels: Iterable[int] = (),
    now: float,
) -> Advance:
    """End the job with an outcome; ``cancels`` are the steps of the waves that it leaves open."""
    reason = storable(reason)
    ended = replace(
        job, state=JobState(outcome), reason=reason, is_pausing=False, progress_at=now, finished_at=now
    )
    event = JobFinished(
        tenant_id=job.tenant_id,
        base=job.base,
        job_id=job.job_id,
        policy_id=job.policy_id,
        outcome=outcome,
        reason=reason,
        steps_done=job.steps_done,
        last_revision=job.revision.digest if job.revision is not None and job.steps_done else None,
    )
    cancelled = [wave_cancelled(job, reason, step=step) for step in cancels]
    return Advance(job=ended, events=(*cancelled, event))


def end_early(job: Job, waves: Sequence[Wave], *, cancels: Iterable[int], now: float) -> Advance | None:
    """Return the job ended after a published step by its plan or for lack of a signal, None if it goes on."""
    idle = idle_stop(job.spec, steps_done=job.steps_done, idle_steps=job.idle_steps)
    if idle is not None:
        ended = replace(job, stopped_early=True)
        if idle.outcome == "succeeded":
            ended = replace(ended, result=_kept(job, waves))
        return finish(ended, idle.outcome, idle.reason, cancels=cancels, now=now)
    stopped = early_stop(job, waves)
    if not stopped:
        return None
    return complete(replace(job, stopped_early=True), waves, note=stopped, cancels=cancels, now=now)


def early_stop(job: Job, waves: Sequence[Wave]) -> str:
    """Return why a job stops early; empty: it continues.

    Runs end in any order: scores after a missing one do not count yet.
    """
    plan = job.plan
    if plan is None or plan.early_stopping is None:
        return ""
    scored = takewhile(lambda wave: not is_unscored(job, wave), waves)
    if not stops_early(plan.early_stopping, plan.metric, scores_of(plan.metric, list(scored))):
        return ""
    patience = plan.early_stopping.patience
    return (
        f"stopped early after step {job.steps_done} of {job.spec.steps}: {plan.metric} was not better in the"
        f" last {patience} evaluations"
    )


def complete(
    job: Job, waves: Sequence[Wave], *, note: str = "", cancels: Iterable[int] = (), now: float
) -> Advance:
    """End a job without further steps, with the revision that its plan selects; see `finish`."""
    waves = [wave for wave in waves if wave.step <= job.steps_done]
    verdict = judge(job.spec, waves)
    reason = "; ".join(part for part in (note, verdict.reason) if part)
    if verdict.outcome == "succeeded":
        job = replace(job, result=_kept(job, waves))
    return finish(job, verdict.outcome, reason, cancels=cancels, now=now)


def _kept(job: Job, waves: Sequence[Wave]) -> RevisionRef | None:
    plan = job.plan
    best = best_score(plan.metric, scores_of(plan.metric, waves)) if plan and plan.keep == "best" else None
    return best.revision if best else job.revision


def wave_cancelled(wave: WaveRequested | Job, reason: str, *, step: int | None = None) -> WaveCancelled:
    """Return the event that ends a wave, or a job's open one of a step, without a record."""
    wave_id = wave.wave_id if isinstance(wave, WaveRequested) else wave_id_of(wave.job_id, step or wave.step)
    return WaveCancelled(
        tenant_id=wave.tenant_id,
        base=wave.base,
        wave_id=wave_id,
        job_id=wave.job_id,
        policy_id=wave.policy_id,
        reason=reason,
    )
