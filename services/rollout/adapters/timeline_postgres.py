"""Timeline entries of a policy from the table of jobs: submissions and ends, newest first."""

from collections.abc import Sequence

import asyncpg

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.postgres import from_row
from mint_common.timeline import TimelineEntry, TimelinePlace, place_text

_PARTS = (
    """
    SELECT round(created_at * 1e6), 'job/' || job_id || '/a', 'job.submitted', job_id, NULL::integer, ''
    FROM jobs WHERE tenant_id = $5 AND policy_id = $1 AND round(created_at * 1e6) <= $2
    """,
    """
    SELECT round(finished_at * 1e6), 'job/' || job_id || '/b', 'job.finished', job_id,
        (revision ->> 'number')::integer, state || CASE WHEN reason = '' THEN '' ELSE ': ' || reason END
    FROM jobs WHERE tenant_id = $5 AND policy_id = $1 AND finished_at IS NOT NULL
        AND round(finished_at * 1e6) <= $2
    """,
)
_PAGE = """(
    SELECT * FROM ({part}) AS part (microseconds, id, kind, subject, revision, reason)
    WHERE microseconds < $2 OR id COLLATE "C" < $3 ORDER BY microseconds DESC, id COLLATE "C" DESC LIMIT $4
)"""
_TIMELINE = f"""
    SELECT * FROM ({" UNION ALL ".join(_PAGE.format(part=part) for part in _PARTS)}) AS merged
    ORDER BY microseconds DESC, id COLLATE "C" DESC LIMIT $4
"""  # noqa: S608  # constants


async def job_entries(
    pool: asyncpg.Pool, tenant_id: TenantId, policy_id: PolicyId, *, limit: int, before: TimelinePlace
) -> Sequence[TimelineEntry]:
    """Return the entries of a policy's jobs below a place, newest first."""
    at = float(before.microseconds)
    rows = await pool.fetch(_TIMELINE, policy_id, at, before.entry_id, limit, tenant_id)
    return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> TimelineEntry:
    microseconds = round(row["microseconds"])
    placed = {"place": place_text(microseconds, row["id"]), "at": microseconds / 1e6}
    return from_row({**row, **placed}, TimelineEntry)
