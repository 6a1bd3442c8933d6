"""What can go wrong in a training session."""

from dataclasses import dataclass
from typing import ClassVar

from mint_common.events.event import Event
from mint_common.ids import JobId, PolicyId, WaveId


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFailed(Event):
    """A wave could not be trained on, and repeating it would fail again."""

    type: ClassVar[str] = "training.failed"
    key: ClassVar[tuple[str, ...]] = ("wave_id",)

    wave_id: WaveId
    job_id: JobId
    policy_id: PolicyId
    code: str
    reason: str
