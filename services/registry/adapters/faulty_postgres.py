"""Quarantined and lost revisions of all policies of a tenant."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import FaultyRevision
from mint_common.ids import TenantId
from mint_common.runtime.postgres import from_row

FAULTY = """
    SELECT policy_id || '@' || number AS place, name AS policy, base, number, digest, state, fault,
        revisions.created_at,
        ARRAY(
            SELECT alias FROM live_aliases aliases
            WHERE aliases.policy_id = revisions.policy_id AND aliases.number = revisions.number
            ORDER BY alias LIMIT $5
        ) AS aliases
    FROM revisions JOIN policies USING (policy_id)
    WHERE faulty_tenant = $1 AND removed_at IS NULL AND (policy_id, number) > ($2, $3)
    ORDER BY policy_id, number LIMIT $4
"""
"""Page of a tenant ``$1``'s faulty revisions behind the policy id ``$2`` and number ``$3``."""
ALIASES = 20
"""Aliases that are named of one revision."""


class PostgresFaulty:
    """Lists of faulty revisions."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def page(self, tenant_id: TenantId, *, limit: int, after: str | None) -> Sequence[FaultyRevision]:
        """Return a tenant's revisions behind a place, by policy id and number."""
        policy_id, _, number = (after or "@0").rpartition("@")
        rows = await self._pool.fetch(FAULTY, tenant_id, policy_id, int(number), limit, ALIASES)
        return [from_row(row, FaultyRevision) for row in rows]
