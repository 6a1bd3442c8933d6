"""Timeline entries of a policy from the registry's tables: alias moves, exports and scores, newest first."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import from_row
from mint_common.timeline import TimelineEntry, TimelinePlace, place_text

# Each part reads at most a page by its index; ids break ties as the places' texts do.
_PARTS = (
    """
    SELECT moved_at AS at, 'move/' || alias || '/' || sequence AS id,
        CASE WHEN removed THEN 'alias.removed' ELSE 'alias.moved' END AS kind, alias AS subject,
        number AS revision, NULL::float8 AS value, actor, reason
    FROM alias_history WHERE policy_id = $1 AND moved_at <= $2
    """,
    """
    SELECT settled_at, 'export/' || export_id, CASE WHEN number IS NULL THEN 'revision.rejected'
        ELSE 'revision.published' END, coalesce(code, ''), number, NULL::float8, '', coalesce(reason, '')
    FROM exports WHERE tenant_id = $5 AND policy_id = $1 AND settled_at <= $2
    """,
    """
    SELECT created_at, 'score/' || evaluation_id, 'evaluation.recorded', suite || '/' || metric, number,
        value, actor, ''
    FROM evaluations WHERE policy_id = $1 AND created_at <= $2
    """,
)
_PAGE = """(
    SELECT * FROM ({part}) AS part (at, id, kind, subject, revision, value, actor, reason)
    WHERE at < $2 OR id COLLATE "C" < $3 ORDER BY at DESC, id COLLATE "C" DESC LIMIT $4
)"""
_TIMELINE = f"""
    SELECT * FROM ({" UNION ALL ".join(_PAGE.format(part=part) for part in _PARTS)}) AS merged
    ORDER BY at DESC, id COLLATE "C" DESC LIMIT $4
"""  # noqa: S608  # constants


class PostgresTimeline:
    """Histories of policies."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def entries(
        self, tenant_id: TenantId, policy_id: PolicyId, *, limit: int, before: TimelinePlace
    ) -> Sequence[TimelineEntry]:
        """Return the entries of a tenant's policy below a place, newest first."""
        at = before.microseconds / 1e6
        rows = await self._pool.fetch(_TIMELINE, policy_id, at, before.entry_id, limit, tenant_id)
        return [
            from_row({**row, "place": place_text(round(row["at"] * 1e6), row["id"])}, TimelineEntry)
            for row in rows
        ]
