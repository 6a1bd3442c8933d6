"""The registry's answers: records of the catalog, shared by its HTTP layer and its client.

Times are seconds since the epoch.
"""

from dataclasses import dataclass, field
from typing import Literal

from mint_common.adapters_format.norms import ModuleChange
from mint_common.claims import Claim, RevisionRef
from mint_common.events.job import LoraSpec
from mint_common.events.policy import Retention
from mint_common.events.revision import Fault
from mint_common.ids import BaseName, Digest, EvaluationId, JobId, PolicyId, TenantId, WaveId

RevisionState = Literal["published", "retired", "quarantined"]
"""No name resolves to a revision that is not published. ``quarantined``: it computed numbers that are not
finite; it is published again once its owner restores it."""
SettableState = Literal["published", "retired"]
"""The states that an owner can set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecord:
    """A tenant."""

    tenant_id: TenantId
    name: str
    created_at: float


Scope = Literal["read", "infer", "train", "admin", "operator"]
"""Permissions of a key, in this order: look; ask models; make policies, revisions, scores and moves; manage
keys, rules and protected aliases of its tenant; manage tenants. ``admin`` includes the three before it."""

FULL_SCOPES: tuple[Scope, ...] = ("read", "infer", "train", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new API key. ``key`` is shown only now; only its hash is stored."""

    key: str
    key_id: str
    tenant_id: TenantId
    name: str
    scopes: tuple[Scope, ...] = FULL_SCOPES


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A stored API key; ``shown`` is its beginning. ``last_used_at`` is accurate to a minute."""

    key_id: str
    tenant_id: TenantId
    name: str
    shown: str
    scopes: tuple[Scope, ...]
    created_at: float
    last_used_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOwner:
    """The tenant of a key, and the key's own id, name and scopes."""

    tenant_id: TenantId
    key_id: str
    name: str
    scopes: tuple[Scope, ...] = FULL_SCOPES


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """A policy; ``latest`` is its newest published revision.

    ``changed`` counts the changes of its description, labels and retention.
    """

    policy_id: PolicyId
    tenant_id: TenantId
    name: str
    base: BaseName
    lora: LoraSpec
    created_at: float
    latest: RevisionRef | None
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    retention: Retention = field(default_factory=Retention)
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNames:
    """The names of a policy: its own, its aliases, and the revision numbers of both."""

    name: str
    base: BaseName
    created_at: float
    latest: int
    aliases: dict[str, int] = field(default_factory=dict)

    @property
    def numbers(self) -> set[int]:
        """Return the revisions that the policy and its aliases point at."""
        return {self.latest, *self.aliases.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFilter:
    """Filter of a tenant's policies; None or empty does not restrict.

    All ``labels`` must be present with these values. The time of creation is at least ``created_after`` and
    less than ``created_before``; a list with either is in order of creation, any other by name.
    ``has_revision`` selects policies with, or without, a published revision. Names begin with ``prefix``.
    """

    prefix: str = ""
    base: str | None = None
    has_revision: bool | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_after: float | None = None
    created_before: float | None = None

    @property
    def is_by_time(self) -> bool:
        """Return whether the list is in order of creation."""
        return self.created_after is not None or self.created_before is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """A revision, its lineage and the job and wave that it came from (None: no managed job).

    ``metrics`` are those of the step that made it. ``reward`` is the mean reward of its own samples, which
    later steps trained on; None before there are any. ``fault`` says why its bytes cannot be served: no name
    resolves to it then.
    """

    digest: Digest
    number: int
    manifest: Claim
    parent: Digest | None
    step: int
    metrics: dict[str, float]
    state: RevisionState
    job_id: JobId | None
    wave_id: WaveId | None
    created_at: float
    fault: Fault | None = None
    reward: float | None = None

    @property
    def ref(self) -> RevisionRef:
        """Return what events and generation requests carry."""
        return RevisionRef(digest=self.digest, number=self.number, manifest=self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedRevision(RevisionRecord):
    """A revision as its upload is answered; ``warnings`` are sentences about what looks like a mistake."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionFilter:
    """Filter of a policy's revisions, like `PolicyFilter`."""

    state: RevisionState | None = None
    created_after: float | None = None
    created_before: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRevision:
    """A revision and the name of its policy. Several policies may have equal weights."""

    policy: str
    base: BaseName
    revision: RevisionRef


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyRevision:
    """A revision that is not retired and cannot be served: quarantined, or lost, as ``fault`` says.

    ``place`` is the cursor of the next page. ``aliases`` are those that point at the revision.
    """

    place: str
    policy: str
    base: BaseName
    number: int
    digest: Digest
    state: RevisionState
    fault: Fault | None
    created_at: float
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One row of an alias's history: from ``previous`` (None: it did not exist) to ``digest``.

    ``removed``: the alias was removed, and pointed at ``digest`` until then.
    """

    sequence: int
    previous: Digest | None
    digest: Digest
    number: int
    actor: str
    reason: str
    at: float
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasPeriod:
    """A period in which an alias pointed at a revision; ``until`` is None while it does.

    Times are in seconds since the epoch. ``actor`` and ``reason`` are of the move that began it.
    """

    alias: str
    since: float
    until: float | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRecord:
    """An alias, its target, and its newest 100 moves, oldest first (none in lists).

    Only admin keys, their jobs and rules move a ``protected`` alias; rules and jobs do not move a ``frozen``
    one. ``moved_by`` lists what can move it: keys by their scope, and rules.
    """

    alias: str
    revision: RevisionRef
    sequence: int
    history: tuple[AliasMove, ...]
    protected: bool = False
    frozen: bool = False
    moved_by: tuple[Literal["train", "admin", "rule"], ...] = ("train", "admin", "rule")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """A score of one revision: ``value`` of ``metric`` in ``suite`` over ``n`` items.

    ``stderr`` is the standard error of ``value``, where the evaluator gave one.
    """

    evaluation_id: EvaluationId
    digest: Digest
    number: int
    suite: str
    metric: str
    value: float
    n: int
    actor: str
    created_at: float
    stderr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """A revision in a lineage; ``parent`` is the digest of the node it was trained from.

    ``distance`` counts trainings from the requested revision: -1 is its parent, 1 a child.
    """

    number: int
    digest: Digest
    parent: Digest | None
    step: int
    state: RevisionState
    job_id: JobId | None
    wave_id: WaveId | None
    aliases: tuple[str, ...]
    created_at: float
    distance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A revision, its ancestors and its descendants, by number; ``complete``: none was left out."""

    revision: int
    nodes: tuple[LineageNode, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """A field of the manifest that differs; None: that manifest lacks it."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberChange:
    """A number of two revisions; None: that revision lacks it."""

    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionDiff:
    """The differences of two revisions of a policy. ``scores`` are named ``<suite>/<metric>``."""

    before: RevisionRecord
    after: RevisionRecord
    config: tuple[ConfigChange, ...]
    metrics: tuple[NumberChange, ...]
    scores: tuple[NumberChange, ...]
    modules: tuple[ModuleChange, ...]


RuleChoice = Literal["newest", "best"]
"""Revision that a rule promotes: the newest that is good enough, or one that scores above the live one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRecord:
    """A promotion rule: which scores move an alias (`services.registry.core.rules`).

    It has ``at_least`` or ``at_most``: larger or smaller scores are better. ``warnings`` say why the rule may
    never move its alias; they are given when it is created.
    """

    rule_id: str
    alias: str
    suite: str
    metric: str
    at_least: float | None
    max_drop: float | None
    roll_back_below: float | None
    actor: str
    created_at: float
    at_most: float | None = None
    max_rise: float | None = None
    roll_back_above: float | None = None
    choose: RuleChoice = "newest"
    cooldown_seconds: float = 0.0
    paused: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionItem:
    """One item of a garbage collection: a ``revision`` that its policy's retention retires, the ``bytes`` of
    a retired one, or a ``folder`` of the blob store that no revision names, whose ``tenant_id`` is None.
    """

    kind: Literal["revision", "bytes", "folder"]
    what: str
    policy_id: PolicyId
    tenant_id: TenantId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionReport:
    """Items that a garbage collection removed, or would remove; ``more``: it stopped at its limit."""

    dry_run: bool
    items: tuple[CollectionItem, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The current target of a model name; ``revision`` is None exactly for the name of a base."""

    base: BaseName
    policy_id: PolicyId | None
    policy_name: str | None
    revision: RevisionRef | None
