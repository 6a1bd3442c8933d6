"""Which of a tenant's policies have the revision of a digest. Several may: their weights are equal."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import OwnedRevision
from mint_common.ids import Digest, TenantId
from services.registry.adapters.rows import ref_of

_OF_DIGESTS = """
    SELECT name, base, revisions.* FROM revisions JOIN policies USING (policy_id)
    WHERE digest = ANY($2) AND tenant_id = $1 AND removed_at IS NULL ORDER BY name, number
"""
# The index revisions_by_prefix covers the first 16 digits; starts_with checks the others.
_OF_PREFIX = """
    SELECT name, base, revisions.* FROM revisions JOIN policies USING (policy_id)
    WHERE substr(digest, 8, 16) = substr($2, 8, 16) AND starts_with(digest, $2)
        AND tenant_id = $1 AND removed_at IS NULL ORDER BY name, number LIMIT $3
"""


class PostgresOwners:
    """Finds a tenant's revisions by their digests, by policy name and number."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def of_digests(self, tenant_id: TenantId, digests: Sequence[Digest]) -> Sequence[OwnedRevision]:
        """Return the revisions that have one of these digests."""
        return _owned(await self._pool.fetch(_OF_DIGESTS, tenant_id, digests))

    async def of_prefix(self, tenant_id: TenantId, prefix: str, *, limit: int) -> Sequence[OwnedRevision]:
        """Return the revisions whose digest begins with these 16 or more hexadecimal digits."""
        return _owned(await self._pool.fetch(_OF_PREFIX, tenant_id, f"sha256:{prefix}", limit))


def _owned(rows: Sequence[asyncpg.Record]) -> list[OwnedRevision]:
    return [OwnedRevision(policy=row["name"], base=row["base"], revision=ref_of(row)) for row in rows]
