"""Events between services. `codec` is the only module that knows the wire format."""

from mint_common.events.adapter import (
    AdapterEvicted,
    AdapterFailed,
    AdapterLoaded,
    AdapterNonFinite,
    AdapterWanted,
)
from mint_common.events.event import Event
from mint_common.events.job import (
    DifficultySampling,
    DynamicSampling,
    EarlyStopping,
    EnvironmentKind,
    EnvironmentSpec,
    EvaluationMetric,
    EvaluationPlan,
    JobData,
    JobFile,
    JobFinished,
    JobSpec,
    JobSubmitted,
    LearningRateSchedule,
    LoraSpec,
    OptimizerStart,
    Teacher,
)
from mint_common.events.member import MemberChanged
from mint_common.events.policy import PolicyChanged, PolicyCreated, PolicyParked, PolicyRemoved, Retention
from mint_common.events.policy_gradient import Overlong, PolicyGradient
from mint_common.events.revision import (
    AliasMoved,
    AliasRemoved,
    EvaluationRecorded,
    RevisionExported,
    RevisionHealed,
    RevisionLost,
    RevisionPublished,
    RevisionQuarantined,
    RevisionRejected,
    RevisionRestored,
    RevisionRetired,
)
from mint_common.events.wave import (
    TrainingFailed,
    WaveCancelled,
    WaveCompared,
    WaveCompleted,
    WaveRequested,
)

EVENT_TYPES: tuple[type[Event], ...] = (
    PolicyCreated,
    PolicyChanged,
    PolicyRemoved,
    PolicyParked,
    JobSubmitted,
    JobFinished,
    WaveRequested,
    WaveCompleted,
    WaveCompared,
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
    AliasRemoved,
    EvaluationRecorded,
    AdapterWanted,
    AdapterLoaded,
    AdapterEvicted,
    AdapterNonFinite,
    AdapterFailed,
    MemberChanged,
)
TENANTS_EVENT_TYPES = tuple(each for each in EVENT_TYPES if each is not MemberChanged)
"""Types of events about a tenant's work, which it may ask for."""
