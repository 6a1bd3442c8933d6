"""The working set in Postgres, schema ``loader``."""

from collections.abc import Sequence

import asyncpg
import msgspec

from mint_common.claims import RevisionRef
from mint_common.ids import Digest, EngineId, TenantId
from mint_common.runtime.postgres import translating_errors
from services.loader.core.working_set import WorkingSetEntry

_INSERT = """
INSERT INTO working_set (engine_id, digest, base_digest, tenant_id, revision, pinned, uses, last_used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


class PostgresWorkingSet:
    """The rows of one engine over one base. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, *, engine_id: EngineId, base_digest: Digest) -> None:
        self._pool = pool
        self._engine_id = engine_id
        self._base_digest = base_digest

    async def save(self, kept: Sequence[WorkingSetEntry]) -> None:
        """Replace the stored set, all or nothing."""
        rows = [
            (
                self._engine_id,
                each.revision.digest,
                self._base_digest,
                each.tenant_id,
                msgspec.to_builtins(each.revision),
                each.pinned,
                each.uses,
                each.last_used_at,
            )
            for each in kept
        ]
        with translating_errors():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("DELETE FROM working_set WHERE engine_id = $1", self._engine_id)
                await connection.executemany(_INSERT, rows)

    async def load(self) -> Sequence[WorkingSetEntry]:
        """Return the stored set; nothing if the engine had another base then."""
        rows = await self._pool.fetch(
            "SELECT tenant_id, revision, pinned, uses, last_used_at FROM working_set"
            " WHERE engine_id = $1 AND base_digest = $2",
            self._engine_id,
            self._base_digest,
        )
        return [
            WorkingSetEntry(
                revision=msgspec.convert(row["revision"], RevisionRef),
                tenant_id=TenantId(row["tenant_id"]),
                pinned=row["pinned"],
                uses=row["uses"],
                last_used_at=row["last_used_at"],
            )
            for row in rows
        ]
