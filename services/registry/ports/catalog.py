"""Bases, policies, revisions and exports."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import PolicyRecord, RevisionRecord, SettableState
from mint_common.events import RevisionExported, WaveCancelled
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from services.registry.core.exports import Refusal


class Catalog(Protocol):
    """Bases, policies, revisions and exports, as handlers ask for them."""

    async def base(self, name: BaseName | str) -> BaseFacts:
        """Return a base. Raises NotFound."""
        ...

    async def bases(self) -> Sequence[BaseFacts]:
        """Return all bases by name."""
        ...

    async def policy(self, tenant_id: TenantId, key: PolicyId | str) -> PolicyRecord:
        """Return a tenant's policy by id or name. Raises NotFound."""
        ...

    async def revision(self, policy_id: PolicyId, key: int | Digest) -> RevisionRecord:
        """Return a revision by number or digest. Raises NotFound."""
        ...

    async def set_state(
        self, policy: PolicyRecord, number: int, state: SettableState, *, cause: str | None = None
    ) -> RevisionRecord:
        """Retire a revision, or restore a retired or quarantined one, and emit the event. Idempotent.

        A retired one keeps its row and bytes. Raises NotFound, and RevisionInUse when an alias points at it.
        """
        ...

    async def check_room(self, tenant_id: TenantId) -> None:
        """Check that a tenant may store one more adapter. Raises QuotaExceeded."""
        ...

    async def settle_export(
        self, export: RevisionExported, refusal: Refusal | None, *, now: float, size_bytes: int = 0
    ) -> None:
        """Commit the verdict on an export and emit the event; None publishes.

        Numbers of a policy's revisions are 1, 2, ... without gaps. An adapter that the policy already has
        keeps its number; a new one has ``size_bytes``, or raises QuotaExceeded. An export that was settled
        before gets its first verdict again. Raises AlreadyHandled when this event was committed before.
        """
        ...

    async def refuse_exports_of(self, wave: WaveCancelled) -> None:
        """Mark the export of a cancelled wave as known, so that it is never settled. Idempotent.

        No event is emitted: ``wave.cancelled`` was one. An export that was settled before keeps its verdict.
        """
        ...

    async def publish(self, export: RevisionExported, *, now: float, size_bytes: int = 0) -> None:
        """Publish a checked adapter that no trainer exported, and emit `revision.published`.

        Numbers and repeats are as `settle_export` says, but a lost revision is healed by its export again.
        Raises NotFound for an unknown policy.
        """
        ...
