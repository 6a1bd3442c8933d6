"""The state of a wave, projected from the events that name it."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from mint_common.claims import Claim, RevisionRef
from mint_common.events import (
    Event,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveCancelled,
    WaveCompleted,
    WaveRequested,
)
from mint_common.ids import Digest, JobId, WaveId


class WaveState(StrEnum):
    """The state of a wave."""

    REQUESTED = "requested"
    COMPLETED = "completed"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveCounts:
    """Counts of a wave.

    ``dropped_rows`` were longer than the context; ``trained_tokens`` are those that a loss uses;
    ``grader_errors`` are samples without a reward, by the kind of error. ``validation_rows`` is how many rows
    measure the wave's revision. ``episodes`` are those of an environment by outcome, and ``dropped_groups``
    had too few with a reward. ``left_out_segments`` of episodes are not trained on: see `Episode`. Dynamic
    sampling left out ``replaced_groups``, whose answers all had the same reward, one for each further group
    that it sampled. ``differing`` says by task whether its rewards differed, in jobs that draw tasks by it.
    """

    dropped_rows: int = 0
    trained_tokens: int = 0
    grader_errors: dict[str, int] = field(default_factory=dict)
    validation_rows: int = 0
    episodes: dict[str, int] = field(default_factory=dict)
    dropped_groups: int = 0
    replaced_groups: int = 0
    left_out_segments: int = 0
    differing: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One step of a job.

    ``sampled`` and ``sampled_number`` name the revision that answered the prompts, None for the bare base;
    training published ``revision``. The evaluation run that measures it, if one does, ended at ``scored_at``.
    ``logprobs`` claims the trainer's log-probabilities of the record: see `WaveCompared`.
    """

    wave_id: WaveId
    job_id: JobId
    step: int
    state: WaveState
    sampled: Digest | None
    prompts: Claim
    requested_at: float
    record: Claim | None = None
    reward_mean: float | None = None
    completed_at: float | None = None
    revision: RevisionRef | None = None
    published_at: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    sampled_number: int | None = None
    counts: WaveCounts = field(default_factory=WaveCounts)
    scored_at: float | None = None
    logprobs: Claim | None = None


def wave_id_in(event: Event) -> WaveId | None:
    """Return the wave of an event, if it has one."""
    wave_id: WaveId | None = getattr(event, "wave_id", None)
    return wave_id


def fold(wave: Wave | None, event: Event, *, counts: WaveCounts | None = None, now: float) -> Wave | None:
    """Return the wave after an event; None before it was requested. Repeating an event changes nothing.

    ``counts`` come with its completion.
    """
    if wave is None:
        return _requested(event, now=now) if isinstance(event, WaveRequested) else None
    if isinstance(event, WaveCompleted) and wave.state is WaveState.REQUESTED:
        return replace(
            wave,
            state=WaveState.COMPLETED,
            record=event.record,
            reward_mean=event.reward_mean,
            completed_at=now,
            counts=counts or wave.counts,
        )
    if isinstance(event, RevisionPublished) and wave.revision is None:
        return replace(
            wave,
            state=WaveState.PUBLISHED,
            revision=event.revision,
            metrics=event.metrics,
            published_at=now,
        )
    if wave.state in (WaveState.REQUESTED, WaveState.COMPLETED):
        if isinstance(event, WaveCancelled):
            return replace(wave, state=WaveState.CANCELLED)
        if isinstance(event, RevisionRejected | TrainingFailed):
            return replace(wave, state=WaveState.FAILED)
    return wave


def _requested(event: WaveRequested, *, now: float) -> Wave:
    return Wave(
        wave_id=event.wave_id,
        job_id=event.job_id,
        step=event.step,
        state=WaveState.REQUESTED,
        sampled=event.revision.digest if event.revision else None,
        sampled_number=event.revision.number if event.revision else None,
        prompts=event.prompts,
        requested_at=now,
    )
