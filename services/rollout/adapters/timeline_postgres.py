"""Timeline entries from the table of jobs: submissions and ends, newest first."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import from_row
from mint_common.timeline import TimelineEntry, TimelinePlace, place_text

_PARTS = (
    """
    SELECT round(created_at * 1e6), 'job/' || job_id || '/a', 'job.submitted', policy_id, policy, job_id,
        NULL::integer, ''
    FROM jobs WHERE {owner} AND round(created_at * 1e6) <= $2
    """,
    """
    SELECT round(finished_at * 1e6), 'job/' || job_id || '/b', 'job.finished', policy_id, policy, job_id,
        (revision ->> 'number')::integer, state || CASE WHEN reason = '' THEN '' ELSE ': ' || reason END
    FROM jobs WHERE {owner} AND finished_at IS NOT NULL AND round(finished_at * 1e6) <= $2
    """,
)
_PAGE = """(
    SELECT * FROM ({part}) AS part (microseconds, id, kind, policy_id, policy, subject, revision, reason)
    WHERE microseconds < $2 OR id COLLATE "C" < $3 ORDER BY microseconds DESC, id COLLATE "C" DESC LIMIT $4
)"""


def _query(owner: str) -> str:
    parts = (_PAGE.format(part=part.format(owner=owner)) for part in _PARTS)
    return f"""
        SELECT * FROM ({" UNION ALL ".join(parts)}) AS merged
        ORDER BY microseconds DESC, id COLLATE "C" DESC LIMIT $4
    """  # noqa: S608  # constants


OF_TENANT = _query("tenant_id = $1")
"""Page of ``$4`` entries of a tenant ``$1`` below the time ``$2``, in microseconds, and the id ``$3``."""
_OF_POLICY = _query("tenant_id = $1 AND policy_id = $5")


async def job_entries(
    pool: asyncpg.Pool,
    tenant_id: TenantId,
    policy_id: PolicyId | None = None,
    *,
    limit: int,
    before: TimelinePlace,
) -> Sequence[TimelineEntry]:
    """Return the entries of a tenant's jobs, or of those of one policy, below a place, newest first."""
    query, policy = (OF_TENANT, ()) if policy_id is None else (_OF_POLICY, (policy_id,))
    rows = await pool.fetch(query, tenant_id, float(before.microseconds), before.entry_id, limit, *policy)
    return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> TimelineEntry:
    microseconds = round(row["microseconds"])
    placed = {"place": place_text(microseconds, row["id"]), "at": microseconds / 1e6}
    return from_row({**row, **placed}, TimelineEntry)
