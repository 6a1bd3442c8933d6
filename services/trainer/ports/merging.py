"""The resident base with a revision merged into it, as a tar."""

from collections.abc import AsyncIterator
from typing import Protocol

from mint_common.claims import Claim
from mint_common.ids import TenantId


class MergedTar(Protocol):
    """A tar that is made while it is read; whoever got it closes it, read or not."""

    @property
    def size_bytes(self) -> int:
        """Return how many bytes come."""
        ...

    def parts(self) -> AsyncIterator[bytes]:
        """Yield the bytes. Raises Unavailable when they end too soon."""
        ...

    async def close(self) -> None:
        """End the making. Idempotent."""
        ...


class Merging(Protocol):
    """Makes tars beside training, a bounded number at a time, in all and of each tenant.

    Repeatable: it keeps nothing of them.
    """

    async def open(self, tenant_id: TenantId, manifest: Claim, *, begin: int) -> MergedTar:
        """Return the tar of a tenant's revision from a byte on.

        Raises BlobMissing, BlobCorrupt, AdapterInvalid, RangeBeyond, InvalidField where none are made,
        Overloaded, Unavailable; MintError when the making crashes, as it would again.
        """
        ...
