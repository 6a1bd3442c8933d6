"""Revisions: immutable exported adapters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mint_common.claims import Claim, RevisionRef
from mint_common.events.event import Event
from mint_common.ids import Digest, JobId, PolicyId, WaveId

Fault = Literal["missing", "wrong", "collected"]
"""Why the bytes of a revision are not to be had."""

QuarantineReason = Literal["non_finite_output"]
"""What a revision did: it computed numbers that are not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionExported(Event):
    """A trainer stored an adapter, which is not served before the registry has checked it.

    ``export_id`` names the export (a wave id for managed jobs). ``wave_id`` and ``job_id`` are None for an
    export that no managed job asked for. ``step`` is the optimizer step of the policy.
    """

    type: ClassVar[str] = "revision.exported"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "export_id")

    export_id: str
    policy_id: PolicyId
    job_id: JobId | None
    wave_id: WaveId | None
    digest: Digest
    manifest: Claim
    parent: Digest | None
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionPublished(Event):
    """A revision passed every check and its row is committed: from now on it can be named and served.

    Two exports of equal bytes publish the same revision; ``export_id`` tells them apart.
    """

    type: ClassVar[str] = "revision.published"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "export_id")

    export_id: str
    policy_id: PolicyId
    job_id: JobId | None
    wave_id: WaveId | None
    revision: RevisionRef
    parent: Digest | None
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRejected(Event):
    """An exported adapter failed a check and will never be served."""

    type: ClassVar[str] = "revision.rejected"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "export_id")

    export_id: str
    policy_id: PolicyId
    job_id: JobId | None
    wave_id: WaveId | None
    digest: Digest
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRetired(Event):
    """A revision was taken out of use; its row and lineage stay."""

    type: ClassVar[str] = "revision.retired"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest
    number: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRestored(Event):
    """A retired or quarantined revision was put into use again: names can lead to it as before."""

    type: ClassVar[str] = "revision.restored"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest
    revision: RevisionRef
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionQuarantined(Event):
    """A revision was taken out of use for what it did on an engine: no name resolves to it any more.

    Aliases go on pointing at it. Its owner rolls them back, or restores it.
    """

    type: ClassVar[str] = "revision.quarantined"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest
    number: int
    reason: QuarantineReason
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionLost(Event):
    """The stored bytes of a revision are missing, wrong or collected: no name resolves to it any more.

    ``problem`` says what was found. A ``revision.healed`` with a higher ``sequence`` takes it back.
    """

    type: ClassVar[str] = "revision.lost"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest
    number: int
    fault: Fault
    problem: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionHealed(Event):
    """The bytes of a lost revision are there again, at ``revision.manifest``."""

    type: ClassVar[str] = "revision.healed"
    key: ClassVar[tuple[str, ...]] = ("policy_id", "digest", "sequence")

    policy_id: PolicyId
    digest: Digest
    revision: RevisionRef
    sequence: int
