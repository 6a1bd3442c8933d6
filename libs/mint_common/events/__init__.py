"""Events between services. `codec` is the only module that knows the wire format."""

from mint_common.events.adapter import (
    AdapterEvicted,
    AdapterFailed,
    AdapterLoaded,
    AdapterNonFinite,
    AdapterWanted,
)
from mint_common.events.alias import AliasMoved
from mint_common.events.evaluation import EvaluationRecorded
from mint_common.events.event import Event
from mint_common.events.job import JobFinished, JobSpec, JobSubmitted, LoraSpec
from mint_common.events.job_data import (
    EarlyStopping,
    EvaluationMetric,
    EvaluationPlan,
    JobData,
    JobFile,
    LearningRateSchedule,
)
from mint_common.events.policy import PolicyChanged, PolicyCreated, Retention
from mint_common.events.revision import (
    RevisionExported,
    RevisionHealed,
    RevisionLost,
    RevisionPublished,
    RevisionQuarantined,
    RevisionRejected,
    RevisionRestored,
    RevisionRetired,
)
from mint_common.events.training import TrainingFailed
from mint_common.events.wave import WaveCancelled, WaveCompleted, WaveRequested

EVENT_TYPES: tuple[type[Event], ...] = (
    PolicyCreated,
    PolicyChanged,
    JobSubmitted,
    JobFinished,
    WaveRequested,
    WaveCompleted,
    WaveCancelled,
    TrainingFailed,
    RevisionExported,
    RevisionPublished,
    RevisionRejected,
    RevisionRetired,
    RevisionQuarantined,
    RevisionRestored,
    RevisionLost,
    RevisionHealed,
    AliasMoved,
    EvaluationRecorded,
    AdapterWanted,
    AdapterLoaded,
    AdapterEvicted,
    AdapterNonFinite,
    AdapterFailed,
)

__all__ = [
    "EVENT_TYPES",
    "AdapterEvicted",
    "AdapterFailed",
    "AdapterLoaded",
    "AdapterNonFinite",
    "AdapterWanted",
    "AliasMoved",
    "EarlyStopping",
    "EvaluationMetric",
    "EvaluationPlan",
    "EvaluationRecorded",
    "Event",
    "JobData",
    "JobFile",
    "JobFinished",
    "JobSpec",
    "JobSubmitted",
    "LearningRateSchedule",
    "LoraSpec",
    "PolicyChanged",
    "PolicyCreated",
    "Retention",
    "RevisionExported",
    "RevisionHealed",
    "RevisionLost",
    "RevisionPublished",
    "RevisionQuarantined",
    "RevisionRejected",
    "RevisionRestored",
    "RevisionRetired",
    "TrainingFailed",
    "WaveCancelled",
    "WaveCompleted",
    "WaveRequested",
]
