"""Revisions: immutable exported adapters, the aliases that point at them, and their scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mint_common.claims import Claim, RevisionRef
from mint_common.events.event import Event
from mint_common.ids import Digest, EvaluationId, JobId, PolicyId, WaveId

Fault = Literal["missing", "wrong", "collected"]
"""Reason why a revision's bytes cannot be read."""

QuarantineReason = Literal["non_finite_output"]
"""Reason for a quarantine: the revision computed numbers that are not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEvent(Event):
    """The outcome of a policy's export; see `RevisionExported` for the fields."""

    key: ClassVar[tuple[str, ...]] = ("policy_id", "export_id")

    export_id: str
    policy_id: PolicyId
    job_id: JobId | None
    wave_id: WaveId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionEvent(Event):
    """A change of a revision's state; the one with the highest ``sequence`` holds."""

    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionExported(ExportEvent):
    """A trainer stored an adapter; it is served only after the registry has checked it.

    ``export_id`` names the export (a wave id for managed jobs). ``wave_id`` and ``job_id`` are None for an
    export without a managed job. ``step`` is the policy's optimizer step.
    """

    type: ClassVar[str] = "revision.exported"

    digest: Digest
    manifest: Claim
    parent: Digest | None
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionPublished(ExportEvent):
    """A revision passed every check and its row is committed: it can now be named and served.

    Two exports of equal bytes publish the same revision; ``export_id`` tells them apart.
    """

    type: ClassVar[str] = "revision.published"

    revision: RevisionRef
    parent: Digest | None
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRejected(ExportEvent):
    """An exported adapter failed a check and will never be served."""

    type: ClassVar[str] = "revision.rejected"

    digest: Digest
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRetired(RevisionEvent):
    """A revision was taken out of use; its row and lineage stay."""

    type: ClassVar[str] = "revision.retired"

    number: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRestored(RevisionEvent):
    """A retired or quarantined revision is in use again: names can resolve to it."""

    type: ClassVar[str] = "revision.restored"

    revision: RevisionRef
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionQuarantined(RevisionEvent):
    """A revision was taken out of use after a fault on an engine: no name resolves to it.

    Aliases still point at it. Its owner rolls them back or restores it.
    """

    type: ClassVar[str] = "revision.quarantined"

    number: int
    reason: QuarantineReason
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionLost(RevisionEvent):
    """The stored bytes of a revision are missing, wrong or collected: no name resolves to it.

    ``problem`` describes the fault. A ``revision.healed`` with a higher ``sequence`` ends it.
    """

    type: ClassVar[str] = "revision.lost"

    number: int
    fault: Fault
    problem: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionHealed(RevisionEvent):
    """The bytes of a lost revision are back, at ``revision.manifest``."""

    type: ClassVar[str] = "revision.healed"

    revision: RevisionRef
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMoved(Event):
    """An alias points at another revision. ``sequence`` numbers the rows of its history (1, 2, ...)."""

    type: ClassVar[str] = "alias.moved"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "alias", "sequence")

    policy_id: PolicyId
    alias: str
    sequence: int
    previous: Digest | None
    revision: RevisionRef
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRemoved(Event):
    """An alias was removed; it pointed at ``digest``. Its history stays, and has this as a row."""

    type: ClassVar[str] = "alias.removed"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "alias", "sequence")

    policy_id: PolicyId
    alias: str
    sequence: int
    digest: Digest
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecorded(Event):
    """A revision was scored: ``value`` of ``metric`` in ``suite`` over ``n`` items.

    ``stderr`` is the standard error of ``value``, None where the evaluator gave none.
    """

    type: ClassVar[str] = "evaluation.recorded"
    version: ClassVar[int] = 2
    key: ClassVar[tuple[str, ...]] = ("evaluation_id",)

    evaluation_id: EvaluationId
    policy_id: PolicyId
    digest: Digest
    suite: str
    metric: str
    value: float
    n: int
    stderr: float | None
    actor: str
