"""Takes over what gateways of the version before stored of files, uploads and jobs.

Needed for one minor version, while such gateways or their rows may be there. Taking a row again changes
nothing, and a file that is deleted does not come back.
"""

from collections.abc import Sequence
from typing import Literal

import asyncpg

from mint_common.ids import TenantId
from mint_common.json_types import JsonObject
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres_errors import acquired
from services.rollout.adapters.erasures_postgres import note_deleted_file

Table = Literal["file_blobs", "files", "file_uploads", "file_upload_parts", "submissions", "removed_files"]
_COPY = """
    INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1) AS came
    WHERE {wanted} ON CONFLICT DO NOTHING
"""
_WANTED = {
    "files": "NOT EXISTS (SELECT FROM deleted_files WHERE deleted_files.file_id = came.file_id)",
    "file_upload_parts": "EXISTS (SELECT FROM file_uploads WHERE file_uploads.upload_id = came.upload_id)",
}
"""Condition under which a row is taken over: its parent may have been deleted here meanwhile."""
# A job that has its policy's name is this version's.
_COMPLETE_JOBS = """
    UPDATE jobs SET policy = coalesce(came.policy, came.policy_id), warnings = came.warnings,
        fine_tuning = came.fine_tuning, created_at = came.submitted_at
    FROM jsonb_to_recordset($1) AS came (
        job_id text, policy_id text, policy text, warnings jsonb, fine_tuning jsonb, submitted_at float8
    )
    WHERE jobs.job_id = came.job_id AND jobs.policy = ''
"""


class PostgresHandover:
    """Rows of gateways in rollout's schema. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def take(self, table: Table, rows: Sequence[JsonObject]) -> None:
        """Store rows of a table of the gateway's schema."""
        if table == "removed_files":
            for row in rows:
                await self.remove_file(TenantId(str(row["tenant_id"])), str(row["file_id"]))
            return
        copy = _COPY.format(table=table, wanted=_WANTED.get(table, "true"))
        statement = _COMPLETE_JOBS if table == "submissions" else copy
        await self._pool.execute(statement, rows)

    async def stored_jobs(self, jobs: Sequence[str]) -> Sequence[str]:
        """Return which of some jobs are stored: the event of another one is still to come."""
        rows = await self._pool.fetch("SELECT job_id FROM jobs WHERE job_id = ANY ($1)", jobs)
        return [row["job_id"] for row in rows]

    async def remove_file(self, tenant_id: TenantId, file_id: str) -> None:
        """Remove a file that a gateway has removed, and erase the data derived from its rows. Idempotent."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(
                "DELETE FROM files WHERE tenant_id = $1 AND file_id = $2", tenant_id, file_id
            )
            await note_deleted_file(connection, tenant_id, file_id, now=self._clock.now())
