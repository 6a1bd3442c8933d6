"""What the registry needs of its store.

Promises of every adapter (checked by tests/contract/test_catalog.py): each method is one atomic step that is
durable when it returns; a write and the events that tell of it are committed together; lists are in the order
that the method says, strictly after the cursor, at most ``limit`` long. All raise Unavailable when the store
stays away.
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
from services.registry.core.collection import Holdings
from services.registry.core.custody import Folder, Held
from services.registry.core.exports import Refusal
from services.registry.core.keys import StoredKey
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import ModelName
from services.registry.core.policies import PolicyChange

PAGE = 1000
"""How many aliases or keys one answer holds, unless it is asked for fewer."""
HISTORY_ROWS = 100
"""How much of its history an alias's own record holds; `Aliases.history` has all, page by page."""

ALL_POLICIES = PolicyFilter()
ALL_REVISIONS = RevisionFilter()


class Accounts(Protocol):
    """Tenants and their keys."""

    async def add_tenant(self, tenant: TenantRecord) -> TenantRecord:
        """Store a tenant, or return the one that has its name already."""
        ...

    async def put_key(self, key: StoredKey) -> None:
        """Store a key, replacing the one of the same id. Raises NotFound for an unknown tenant.

        Another key under the id of a revoked one is not revoked; the same key stays so.
        """
        ...

    async def add_key(self, key: StoredKey, by: Authority) -> None:
        """Store a new key. Raises NotFound for an unknown tenant, and as `Authority.check_grant`.

        Raises Unauthorized when the key behind the request is revoked by now; so do the two below.
        """
        ...

    async def owner_of(self, key_hash: bytes, *, now: float) -> KeyOwner | None:
        """Return whose key has this hash, unless it is revoked; the key counts as used."""
        ...

    async def keys(
        self, tenant_id: TenantId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[KeyRecord]:
        """Return a tenant's keys by id, revoked ones too."""
        ...

    async def revoke_key(self, tenant_id: TenantId, key_id: str, by: Authority, *, now: float) -> None:
        """Let a key open nothing any more. Idempotent. Raises NotFound, and as `add_key`."""
        ...

    async def replace_key(self, key: StoredKey, by: Authority) -> KeyRecord:
        """Give a tenant's key that is not revoked another hash; all else stays.

        Raises NotFound, and as `add_key`.
        """
        ...

    async def tenants(self, *, limit: int, after: str | None) -> Sequence[TenantRecord]:
        """Return tenants by name."""
        ...


class Catalog(Protocol):
    """Bases, policies, revisions and exports."""

    async def put_base(self, facts: BaseFacts, *, now: float) -> BaseFacts:
        """Store a base, its norms even later, or return what has its digest. Raises BaseChanged."""
        ...

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base. Raises NotFound."""
        ...

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        ...

    async def add_policy(self, policy: PolicyRecord) -> None:
        """Store and tell a new policy.

        Raises AlreadyExists, InvalidField when a base has the name, NotFound.
        """
        ...

    async def change_policy(
        self, policy_id: PolicyId, change: PolicyChange, *, expected: int | None
    ) -> PolicyRecord:
        """Apply `core.policies.change_policy`, tell it if anything is otherwise, and return the policy.

        Of changes that race, each sees the one before it. Raises NotFound.
        """
        ...

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name. Raises NotFound."""
        ...

    async def policies(
        self, tenant_id: TenantId, wanted: PolicyFilter = ALL_POLICIES, *, limit: int, after: str | None
    ) -> Sequence[PolicyRecord]:
        """Return a tenant's policies by name, or by time when a time selects them; ``after`` is a name.

        Raises InvalidField when a list by time is to go on after a policy that there is not.
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

        A policy comes before a base of the same name. Raises NotFound naming what there is not
        (model, policy, alias or revision), NoRevision for a policy without one.
        """
        ...

    async def owned(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return which of these digests are a tenant's, of which policies, by policy name and number."""
        ...

    async def set_state(self, policy: PolicyRecord, number: int, state: SettableState) -> RevisionRecord:
        """Retire a revision, or restore a retired or quarantined one, and tell it. Idempotent.

        A retired one keeps its row and bytes. Raises NotFound, and RevisionInUse when an alias points at it.
        """
        ...

    async def settle_export(self, export: RevisionExported, refusal: Refusal | None, *, now: float) -> None:
        """Commit the verdict on an export and tell it; None publishes.

        Numbers of a policy's revisions are 1, 2, ... without gaps. An adapter that the policy has already
        keeps its number. An export that is settled already gets its first answer again, whatever the verdict
        is now. Raises AlreadyHandled when this very event is committed.
        """
        ...

    async def add_policies(self, policies: Sequence[PolicyRecord], *, announce: bool = False) -> None:
        """Store many new policies, all or none; ``announce`` tells each. Raises as `add_policy` does."""
        ...

    async def publish_many(
        self, exports: Sequence[RevisionExported], *, now: float, announce: bool
    ) -> Sequence[RevisionRef]:
        """Publish checked adapters in one step; return the revision of each, in order.

        Numbers and repeats are as `settle_export` says. ``announce`` tells a `revision.published` for each.
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
    """What makes a repeated move the same one; None: it is one of its kind."""


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
        """Apply `core.aliases.plan_move`, tell it and return what it led to, no later move in it.

        Of moves that race, each sees the one before it.

        Raises AliasProtected, AlreadyHandled for a repeated cause, and as `core.resolve.check_servable`.
        """
        ...

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return an alias's moves, newest first, with a sequence below ``before``. Raises NotFound."""
        ...

    async def protect(self, policy_id: PolicyId, name: str, *, protected: bool) -> None:
        """Let nobody but admins and rules move an alias, or everybody again. Idempotent. Raises NotFound."""
        ...

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` as `move` does. Raises NotFound for an unknown alias."""
        ...


class Evaluations(Protocol):
    """Scores of revisions."""

    async def add(self, policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Store and tell a score of an existing revision.

        Where one of its id is known, what `core.evaluations.said_anew` says: the last one, or another id.
        """
        ...

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations as they came. Raises NotFound for an unknown cursor."""
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


class Custody(Protocol):
    """Which bytes the catalog vouches for, and what lies in the blob store for nobody.

    Revisions without bytes by intent (``collected``) are in no list of it.
    """

    def turn(self, work: str) -> AbstractAsyncContextManager[bool]:
        """Be the only registry at a kind of work, or learn that another one is (False)."""
        ...

    async def place(self, walk: str) -> str:
        """Return how far a walk has come, "" at its start."""
        ...

    async def keep_place(self, walk: str, place: str) -> None:
        """Keep how far a walk has come."""
        ...

    async def held(self, *, after: str, limit: int) -> Sequence[Held]:
        """Return revisions after a `Held.place`, in an order of the store's own."""
        ...

    async def lost(self, *, after: str, limit: int) -> Sequence[Held]:
        """Return those whose bytes are missing or wrong, in the same order."""
        ...

    async def mark(self, held: Held, fault: Fault | None, problem: str) -> bool:
        """Record what was found of a revision's bytes and tell it; False when it changed meanwhile."""
        ...

    async def quarantine(self, digest: Digest, reason: QuarantineReason, *, cause: str) -> Sequence[Held]:
        """Quarantine and tell each published revision of a digest, of whomever. Raises AlreadyHandled."""
        ...

    async def note_folders(self, root: str, folders: Sequence[Folder], *, now: float) -> None:
        """Take in all folders under a root: those that no revision names are garbage, known from now on."""
        ...

    async def garbage(self, *, before: float, limit: int) -> Sequence[Folder]:
        """Return garbage that was known before a time."""
        ...

    async def give_up_folder(self, folder: Folder) -> bool:
        """Let garbage be removed; no export of it is published any more. False when it is none by now."""
        ...

    async def candidates(self, *, after: str, limit: int) -> Sequence[PolicyId]:
        """Return policies that have a retention or retired revisions with bytes, after one of them."""
        ...

    async def holdings(self, policy_id: PolicyId) -> tuple[PolicyRecord, Holdings]:
        """Return a policy and all that decides what of it may go."""
        ...

    async def give_up_bytes(self, policy: PolicyRecord, number: int) -> bool:
        """Let the bytes of a revision be removed and tell it. False unless it is retired and unpointed."""
        ...

    async def going(self, *, limit: int) -> Sequence[str]:
        """Return the prefixes of folders that were given up and are not removed yet."""
        ...

    async def removed(self, prefix: str) -> None:
        """Forget a folder that is removed. Idempotent."""
        ...
