"""What the registry needs of its store.

Promises of every adapter (checked by tests/contract/test_catalog.py): each method is one atomic step that is
durable when it returns; a write and its events are committed together; lists are in the order
that the method says, strictly after the cursor, at most ``limit`` long. All raise Unavailable when the store
does not answer.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.authority import Authority
from mint_common.catalog import (
    AliasMove,
    AliasRecord,
    EvaluationRecord,
    KeyOwner,
    KeyRecord,
    OwnedRevision,
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionFilter,
    RevisionRecord,
    RuleRecord,
    SettableState,
    TenantRecord,
)
from mint_common.claims import RevisionRef
from mint_common.events import RevisionExported
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import BaseName, Digest, EvaluationId, PolicyId, TenantId
from services.registry.core.blob_integrity import Folder, StoredRevision
from services.registry.core.collection import PolicyRevisions
from services.registry.core.exports import Refusal
from services.registry.core.keys import StoredKey
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import ModelName
from services.registry.core.policies import PolicyChange

PAGE = 1000
"""How many aliases or keys one answer holds, unless it is asked for fewer."""
HISTORY_ROWS = 100
"""How many moves an alias's record holds; `Aliases.history` pages through all of them."""

ALL_POLICIES = PolicyFilter()
ALL_REVISIONS = RevisionFilter()


class Accounts(Protocol):
    """Tenants and their keys."""

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        ...

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id. Raises NotFound for an unknown tenant.

        A different key under the id of a revoked one is valid; the revoked key itself stays revoked.
        """
        ...

    async def add_key(self, key: StoredKey, by: Authority) -> None:
        """Store a new key. Raises NotFound for an unknown tenant, and as `Authority.check_grant`.

        Raises Unauthorized when the key behind the request is revoked by now; so do the two below.
        """
        ...

    async def owner_of(self, key_hash: bytes, *, now: float) -> KeyOwner | None:
        """Return the owner of the key with this hash, None when it is unknown or revoked; record the use."""
        ...

    async def keys(
        self, tenant_id: TenantId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Return a tenant's keys by id, revoked ones too."""
        ...

    async def revoke_key(self, tenant_id: TenantId, key_id: str, by: Authority, *, now: float) -> None:
        """Revoke a key. Idempotent. Raises NotFound, and as `add_key`."""
        ...

    async def replace_key(self, key: StoredKey, by: Authority) -> KeyRecord:
        """Replace the hash of a tenant's key that is not revoked; nothing else changes.

        Raises NotFound, and as `add_key`.
        """
        ...

    async def tenants(self, *, limit: int, after: str | None) -> Sequence[TenantRecord]:
        """Return tenants by name."""
        ...


class Catalog(Protocol):
    """Bases, policies, revisions and exports."""

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:
        """Store a base, or return the stored one.

        Norms may be added later. Raises BaseChanged for another digest.
        """
        ...

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base. Raises NotFound."""
        ...

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        ...

    async def add_policy(self, policy: PolicyRecord) -> None:
        """Store a new policy and emit `policy.created`.

        Raises AlreadyExists, InvalidField when a base has the name, NotFound.
        """
        ...

    async def change_policy(
        self, policy_id: PolicyId, change: PolicyChange, *, expected: int | None
    ) -> PolicyRecord:
        """Apply `core.policies.change_policy`, emit `policy.changed` if it changed, and return the policy.

        Concurrent changes serialise. Raises NotFound.
        """
        ...

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name. Raises NotFound."""
        ...

    async def policies(
        self, tenant_id: TenantId, wanted: PolicyFilter = ALL_POLICIES, *, limit: int, after: str | None
    ) -> Sequence[PolicyRecord]:
        """Return a tenant's policies by name, or by time when a time selects them; ``after`` is a name.

        Raises InvalidField when a list by time continues after an unknown policy.
        """
        ...

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest. Raises NotFound."""
        ...

    async def revisions(
        self, policy_id: PolicyId, wanted: RevisionFilter = ALL_REVISIONS, *, limit: int, after: int
    ) -> Sequence[RevisionRecord]:
        """Return a policy's revisions by number."""
        ...

    async def related(
        self, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
    ) -> Sequence[Relative]:
        """Return a revision's ancestors and descendants within reach, nearest first; ``limit`` in all."""
        ...

    async def resolve(self, tenant_id: TenantId, name: ModelName) -> Resolution:
        """Return what a model name means now, by index alone.

        A policy takes precedence over a base of the same name. Raises NotFound naming what does not exist
        (model, policy, alias or revision), NoRevision for a policy without a published revision.
        """
        ...

    async def owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return the tenant's revisions among these digests, by policy name and number."""
        ...

    async def set_state(self, policy: PolicyRecord, number: int, state: SettableState) -> RevisionRecord:
        """Retire a revision, or restore a retired or quarantined one, and emit the event. Idempotent.

        A retired one keeps its row and bytes. Raises NotFound, and RevisionInUse when an alias points at it.
        """
        ...

    async def settle_export(self, export: RevisionExported, refusal: Refusal | None, *, now: float) -> None:
        """Commit the verdict on an export and emit the event; None publishes.

        Numbers of a policy's revisions are 1, 2, ... without gaps. An adapter that the policy already has
        keeps its number. An export that was settled before gets its first verdict again. Raises
        AlreadyHandled when this event was committed before.
        """
        ...

    async def add_policies(self, policies: Sequence[PolicyRecord], *, announce: bool = False) -> None:
        """Store many new policies, all or none; ``announce`` emits an event for each.

        Raises as `add_policy` does.
        """
        ...

    async def publish_many(
        self, exports: Sequence[RevisionExported], *, now: float, announce: bool
    ) -> Sequence[RevisionRef]:
        """Publish checked adapters in one transaction; return the revision of each, in order.

        Numbers and repeats are as `settle_export` says. ``announce`` emits `revision.published` for each.
        Raises NotFound for an unknown policy, and then publishes none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """Who moves an alias, why and when."""

    actor: str
    reason: str
    at: float
    is_admin: bool = True
    """Whether protected aliases are moved as well."""
    cause: str | None = None
    """A move is applied once per cause; None: this move has no cause that could repeat."""


class Aliases(Protocol):
    """Aliases and their history."""

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest `HISTORY_ROWS` rows of its history. Raises NotFound."""
        ...

    async def aliases(
        self, policy_id: PolicyId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[AliasRecord]:
        """Return a policy's aliases by name, without histories."""
        ...

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_move`, emit `alias.moved`, and return the alias as this move left it.

        Concurrent moves serialise.

        Raises AliasProtected, AlreadyHandled for a repeated cause, and as `core.resolve.check_servable`.
        """
        ...

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return an alias's moves, newest first, with a sequence below ``before``. Raises NotFound."""
        ...

    async def protect(self, policy_id: PolicyId, name: str, *, protected: bool) -> None:
        """Allow moves of an alias to admins and rules only, or to everybody. Idempotent. Raises NotFound."""
        ...

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` as `move` does. Raises NotFound for an unknown alias."""
        ...


class Evaluations(Protocol):
    """Scores of revisions."""

    async def add(self, policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Store a score of an existing revision and emit `evaluation.recorded`.

        A repeated score is handled as `core.evaluations.repeated_score` says.
        """
        ...

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations, oldest first. Raises NotFound for an unknown cursor."""
        ...

    async def get(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return an evaluation. Raises NotFound."""
        ...

    async def newest(self, policy_id: PolicyId, number: int, *, suite: str, metric: str) -> float | None:
        """Return the newest score of a revision."""
        ...

    async def scores(self, policy_id: PolicyId, number: int) -> Sequence[EvaluationRecord]:
        """Return the newest score of a revision in each suite and metric, by their names."""
        ...


class Rules(Protocol):
    """Promotion rules of policies."""

    async def add(self, policy_id: PolicyId, rule: RuleRecord) -> None:
        """Store a rule. Raises InvalidField when the policy has `core.rules.MOST_RULES`."""
        ...

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        ...

    async def remove(self, policy_id: PolicyId, rule_id: str) -> None:
        """Remove a rule. Raises NotFound."""
        ...


class BlobIntegrity(Protocol):
    """Which stored bytes the catalog relies on, and which folders of the blob store no revision names.

    Revisions whose bytes were removed on purpose (fault ``collected``) are in none of its lists.
    """

    def exclusive(self, work: str) -> AbstractAsyncContextManager[bool]:
        """Hold the lock of a kind of work among all registries; False when another registry holds it."""
        ...

    async def position(self, walk: str) -> str:
        """Return the saved position of a walk, "" at its start."""
        ...

    async def save_position(self, walk: str, position: str) -> None:
        """Save the position of a walk."""
        ...

    async def stored(self, *, after: str, limit: int) -> Sequence[StoredRevision]:
        """Return revisions that have bytes, in the order of `StoredRevision.position`."""
        ...

    async def lost(self, *, after: str, limit: int) -> Sequence[StoredRevision]:
        """Return the revisions whose bytes are missing or wrong, in the same order."""
        ...

    async def mark(self, revision: StoredRevision, fault: Fault | None, problem: str) -> bool:
        """Set the fault of a revision and emit the event.

        False when its row has changed since it was read.
        """
        ...

    async def quarantine(
        self, digest: Digest, reason: QuarantineReason, *, cause: str
    ) -> Sequence[StoredRevision]:
        """Quarantine each published revision of a digest, of every tenant, and emit an event for each.

        Raises AlreadyHandled for a repeated cause.
        """
        ...

    async def record_folders(self, root: str, folders: Sequence[Folder], *, now: float) -> None:
        """Record the folders under a root that no revision names as garbage, first seen now.

        Forget the rest.
        """
        ...

    async def garbage(self, *, before: float, limit: int) -> Sequence[Folder]:
        """Return garbage that was first seen before a time."""
        ...

    async def release_folder(self, folder: Folder) -> bool:
        """Allow the removal of a garbage folder; from then on no export in it is published.

        False when the folder is not garbage any more.
        """
        ...

    async def candidates(self, *, after: str, limit: int) -> Sequence[PolicyId]:
        """Return the ids of policies that have a retention, or retired revisions with bytes."""
        ...

    async def revisions_of(self, policy_id: PolicyId) -> tuple[PolicyRecord, PolicyRevisions]:
        """Return a policy and what `core.collection` needs to plan for it."""
        ...

    async def release_bytes(self, policy: PolicyRecord, number: int) -> bool:
        """Allow the removal of a revision's bytes and emit the event.

        False unless the revision is retired and no alias points at it.
        """
        ...

    async def folders_to_remove(self, *, limit: int) -> Sequence[str]:
        """Return the prefixes of released folders that are not removed yet."""
        ...

    async def forget_folder(self, prefix: str) -> None:
        """Forget a folder that was removed. Idempotent."""
        ...
