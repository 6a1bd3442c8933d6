"""Plan the erasure of an ended job's blobs. Pure.

A job's blobs are those under its prefix: the prompts or rows of its steps, rollout records, and the trainer's
log-probabilities of these. When it has ended, its prompts have no readers, and only the trainer reads its
records: to continue an accepted wave, and to replay operations that no snapshot of the policy covers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mint_common.ids import BaseName, JobId, PolicyId, WaveId
from mint_common.records import wave_blobs

SETTLE_SECONDS = 3600.0
"""Time after the end of a job in which a process that missed the end may still store a blob for it."""
RETRY_SECONDS = 10.0
"""Delay until records that are still needed are checked again: a snapshot covers them soon."""
AWAY_SECONDS = 300.0
"""Delay until records of a trainer that does not answer are checked again."""
_PROMPTS = ".prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A job whose blobs are to be erased.

    ``is_recorded`` says whether the trainer ever got an event with one of its records; ``untold`` are its
    waves with a record and an unknown outcome.
    """

    job_id: JobId
    policy_id: PolicyId
    base: BaseName
    finished_at: float
    is_recorded: bool
    untold: tuple[WaveId, ...]

    @property
    def prefix(self) -> str:
        """Return the prefix of its blobs."""
        return wave_blobs(self.policy_id, self.job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Blobs to erase now, and the time of the job's next sweep: None is never."""

    keys: tuple[str, ...]
    next_at: float | None


def prompts_key(policy_id: PolicyId, job_id: JobId, step: int) -> str:
    """Return where the prompts or rows of a step are stored."""
    return f"{wave_blobs(policy_id, job_id)}{step}{_PROMPTS}"


def plan_erasure(
    job: EndedJob, keys: Sequence[str], needed: Collection[str] | None, *, most: int, now: float
) -> Erasure:
    """Return the blobs of a job to erase, at most ``most`` at once.

    ``needed`` are records that its policy's training may still read; None: the trainer does not answer, so
    all may be. While there are some, and while a blob may still arrive, the job is swept again.
    """
    free = [key for key in keys if key.endswith(_PROMPTS) or (needed is not None and key not in needed)]
    settled_at = job.finished_at + SETTLE_SECONDS
    next_at: float | None
    if len(free) > most:
        next_at = now
    elif len(free) < len(keys):
        next_at = now + (AWAY_SECONDS if needed is None else RETRY_SECONDS)
    else:
        next_at = None if now >= settled_at else settled_at
    return Erasure(keys=tuple(free[:most]), next_at=next_at)
