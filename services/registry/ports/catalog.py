"""Bases, policies, revisions and exports."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    OwnedRevision,
    PolicyFilter,
    PolicyRecord,
    Resolution,
    RevisionFilter,
    RevisionRecord,
    SettableState,
)
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from services.registry.core.exports import Refusal
from services.registry.core.lineage import Reach, Relative
from services.registry.core.names import ModelName
from services.registry.core.policies import PolicyChange

ALL_POLICIES = PolicyFilter()
ALL_REVISIONS = RevisionFilter()


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

    async def best(self, policy_id: PolicyId) -> RevisionRecord:
        """Return the published one whose training samples got the highest mean reward. Raises NotFound."""
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

    async def publish(self, export: RevisionExported, *, now: float) -> None:
        """Publish a checked adapter that no trainer exported, and emit `revision.published`.

        Numbers and repeats are as `settle_export` says, but a lost revision is healed by its export again.
        Raises NotFound for an unknown policy.
        """
        ...
