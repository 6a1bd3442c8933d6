"""Timeline entries from the registry's tables: alias moves, exports and scores, newest first."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import from_row
from mint_common.timeline import TimelineEntry, TimelinePlace, place_text

# Each part reads at most a page by its index; ids break ties as the places' texts do.
_PARTS = (
    """
    SELECT moved_at, 'move/' || policy_id || '/' || alias || '/' || sequence,
        CASE WHEN removed THEN 'alias.removed' ELSE 'alias.moved' END, policy_id, alias, number,
        NULL::float8, actor, reason
    FROM alias_history WHERE {owner} AND moved_at <= $2
    """,
    """
    SELECT settled_at, 'export/' || policy_id || '/' || export_id, CASE WHEN number IS NULL
        THEN 'revision.rejected' ELSE 'revision.published' END, policy_id, coalesce(code, ''), number,
        NULL::float8, '', coalesce(reason, '')
    FROM exports WHERE {exporter} AND settled_at <= $2
    """,
    """
    SELECT created_at, 'score/' || evaluation_id, 'evaluation.recorded', policy_id, suite || '/' || metric,
        number, value, actor, ''
    FROM evaluations WHERE {owner} AND created_at <= $2
    """,
)
_PAGE = """(
    SELECT * FROM ({part}) AS part (at, id, kind, policy_id, subject, revision, value, actor, reason)
    WHERE at < $2 OR id COLLATE "C" < $3 ORDER BY at DESC, id COLLATE "C" DESC LIMIT $4
)"""


def timeline_query(*, owner: str, exporter: str) -> str:
    """Return the query of a page of entries whose rows fulfil conditions.

    ``owner`` is of moves and scores, ``exporter`` of exports, which may name a policy of another tenant.
    """
    parts = (_PAGE.format(part=part.format(owner=owner, exporter=exporter)) for part in _PARTS)
    return f"""
        WITH page AS (
            SELECT * FROM ({" UNION ALL ".join(parts)}) AS merged
            ORDER BY at DESC, id COLLATE "C" DESC LIMIT $4
        )
        SELECT page.*, coalesce(name, '') AS policy FROM page
        LEFT JOIN policies ON policies.policy_id = page.policy_id AND policies.tenant_id = $1
        ORDER BY at DESC, id COLLATE "C" DESC
    """  # noqa: S608  # constants


OF_TENANT = timeline_query(owner="tenant_id = $1", exporter="tenant_id = $1")
"""Page of ``$4`` entries of a tenant ``$1`` below the time ``$2`` and the id ``$3``."""
_OF_POLICY = timeline_query(owner="policy_id = $5", exporter="tenant_id = $1 AND policy_id = $5")


class PostgresTimeline:
    """Histories of tenants and of their policies."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def entries(
        self, tenant_id: TenantId, policy_id: PolicyId | None = None, *, limit: int, before: TimelinePlace
    ) -> Sequence[TimelineEntry]:
        """Return the entries of a tenant, or of one of its policies, below a place, newest first."""
        at = before.microseconds / 1e6
        query, policy = (OF_TENANT, ()) if policy_id is None else (_OF_POLICY, (policy_id,))
        rows = await self._pool.fetch(query, tenant_id, at, before.entry_id, limit, *policy)
        return [
            from_row({**row, "place": place_text(round(row["at"] * 1e6), row["id"])}, TimelineEntry)
            for row in rows
        ]
