"""Stored bytes, and folders of the blob store that no revision names."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mint_common.catalog import PolicyRecord
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import Digest, PolicyId
from services.registry.core.blob_integrity import Folder, StoredRevision
from services.registry.core.collection import PolicyRevisions


class BlobIntegrity(Protocol):
    """Stored bytes that the catalog relies on, and folders of the blob store that no revision names.

    Its lists omit revisions whose bytes were removed on purpose (fault ``collected``).
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

    async def sound(self, *, limit: int) -> Sequence[StoredRevision]:
        """Return the first revisions that have bytes without a known fault."""
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

        False when the folder is no longer garbage.
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
