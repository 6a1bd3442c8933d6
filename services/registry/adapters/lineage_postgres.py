"""Ancestors and descendants of a revision, each step of which is a look-up by index."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import PolicyId
from services.registry.adapters.rows import revision_of
from services.registry.core.lineage import Reach, Relative

# A revision has one parent, so what comes of one is a tree, unless parents name each other: such a line ends
# at the revision itself, or where what is asked for ends.
_RELATED = """
    WITH RECURSIVE line AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance - 1 FROM line JOIN revisions r
        ON r.policy_id = $1 AND r.digest = line.parent AND r.number <> $2 WHERE distance > -$3::integer
    ), tree AS (
        SELECT r.*, 0 AS distance FROM revisions r WHERE policy_id = $1 AND number = $2
        UNION ALL
        SELECT r.*, distance + 1 FROM tree JOIN revisions r
        ON r.policy_id = $1 AND r.parent = tree.digest AND r.number <> $2 WHERE distance < $4::integer
    )
    SELECT * FROM (SELECT * FROM line UNION ALL SELECT * FROM tree) relatives
    WHERE distance <> 0 ORDER BY abs(distance), distance, number LIMIT $5
"""


async def find_related(
    pool: asyncpg.Pool, policy_id: PolicyId, number: int, reach: Reach, *, limit: int
) -> Sequence[Relative]:
    """Do what `ports.Catalog.related` does."""
    rows = await pool.fetch(_RELATED, policy_id, number, reach.ancestors, reach.descendants, limit)
    return [Relative(revision=revision_of(row), distance=row["distance"]) for row in rows]
