"""Tenants' files in Postgres.

Invariant: content is stored and erased under the lock of its row in `file_blobs`, and a file names only
content whose row is there. Whatever is killed in between leaves at most a row that no file names.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from mint_common.errors import NotFound
from mint_common.ids import JobId, TenantId
from mint_common.job_errors import UploadClosed
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres import columns_of, found_record, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import PostgresConnection, acquired
from services.rollout.adapters.erasures_postgres import note_deleted_file
from services.rollout.core.files.records import (
    FileContent,
    FileDraft,
    FileRecord,
    Order,
    created_at_of,
    new_file,
)
from services.rollout.core.files.refusals import check_room, check_same
from services.rollout.core.fine_tuning.refusals import file_in_use

LOCK_TENANT = "SELECT pg_advisory_xact_lock(hashtextextended('files of ' || $1, 0))"
_LIVE = "(expires_at IS NULL OR expires_at > $2)"
_ROOM = f"""
    WITH uploads AS (
        SELECT size_bytes, status = 'pending' AND expires_at > $2 AS is_open, (
            SELECT coalesce(sum(part.size_bytes), 0)::bigint FROM file_upload_parts part
            WHERE part.upload_id = file_uploads.upload_id
        ) AS parts_bytes
        FROM file_uploads WHERE tenant_id = $1 AND status <> 'completed'
    )
    SELECT coalesce(sum(size_bytes), 0)::bigint, count(*) FILTER (WHERE is_open) FROM (
        SELECT size_bytes, true AS is_open FROM files WHERE tenant_id = $1 AND {_LIVE}
        UNION ALL
        SELECT CASE WHEN is_open THEN greatest(size_bytes, parts_bytes) ELSE parts_bytes END, is_open
        FROM uploads
    ) AS held
"""  # noqa: S608  (constants)
_ADD = insert_of("files", FileRecord, "cause")
_MADE = f"SELECT {columns_of(FileRecord)} FROM files WHERE tenant_id = $1 AND cause = $2"  # noqa: S608
_COMPLETE = """
    UPDATE file_uploads SET status = 'completed', file_id = $2, ended_at = $3
    WHERE upload_id = $1 AND status = 'pending' RETURNING upload_id
"""
# Of those that may read it: a paused job, or one that waits, reads it later.
_READER = """
    SELECT job_id FROM jobs
    WHERE tenant_id = $1 AND state IN ('submitted', 'running', 'paused')
        AND (spec #>> '{data,training,file_id}' = $2 OR spec #>> '{data,evaluation,file,file_id}' = $2)
    LIMIT 1
"""
_UNUSED = "NOT EXISTS (SELECT FROM files WHERE files.sha256 = file_blobs.sha256)"


class PostgresFiles:
    """Rows of files. Those past their time are not there. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    @asynccontextmanager
    async def hold(self, sha256: str) -> AsyncIterator["_Held"]:
        """Hold content while it is stored and a file is made that names it; a failed block makes none."""
        async with acquired(self._pool) as connection:
            is_held = False
            while not is_held:
                # Committed before the bytes are stored: after a crash the row says that they may be there.
                await connection.execute(
                    "INSERT INTO file_blobs (sha256) VALUES ($1) ON CONFLICT DO NOTHING", sha256
                )
                async with connection.transaction():
                    query = "SELECT true FROM file_blobs WHERE sha256 = $1 FOR SHARE"
                    is_held = await connection.fetchval(query, sha256) or False
                    if is_held:  # else it was erased in between
                        yield _Held(connection, self._clock)

    @asynccontextmanager
    async def erasing(self, sha256: str) -> AsyncIterator[bool]:
        """Yield whether content may be erased: no file names it and nothing holds it, until the block ends.

        The content's row is deleted if the block succeeds.
        """
        async with acquired(self._pool) as connection, connection.transaction():
            lock = "SELECT true FROM file_blobs WHERE sha256 = $1 FOR UPDATE SKIP LOCKED"
            if not await connection.fetchval(lock, sha256):
                yield False
                return
            # A statement of its own: it sees what was committed before the lock was free.
            query = f"SELECT {_UNUSED} FROM file_blobs WHERE sha256 = $1"  # noqa: S608  (constants)
            is_unused = await connection.fetchval(query, sha256)
            yield is_unused
            if is_unused:
                await connection.execute("DELETE FROM file_blobs WHERE sha256 = $1", sha256)

    async def room(self, tenant_id: TenantId) -> tuple[int, int]:
        """Return the bytes and the number of a tenant's files and open uploads.

        An upload counts its announced size or that of its parts, whichever is larger; a cancelled or
        expired one counts its parts until they are deleted.
        """
        async with acquired(self._pool) as connection:
            return await room_of(connection, tenant_id, now=self._clock.now())

    async def is_made(self, tenant_id: TenantId, cause: str | None) -> bool:
        """Return whether a request has made a file that is still there; None made none."""
        return cause is not None and await self._pool.fetchrow(_MADE, tenant_id, cause) is not None

    async def get(self, tenant_id: TenantId, file_id: str) -> FileRecord:
        """Return a tenant's file. Raises NotFound."""
        query = f"SELECT * FROM files WHERE tenant_id = $1 AND {_LIVE} AND file_id = $3"  # noqa: S608
        row = await self._pool.fetchrow(query, tenant_id, self._clock.now(), file_id)
        return found_record(row, FileRecord, kind="file", name=file_id)

    async def page(
        self, tenant_id: TenantId, *, purpose: str | None, order: Order, after: str | None, limit: int
    ) -> Sequence[FileRecord]:
        """Return a tenant's files by age; ``after`` is the last id of the previous page.

        Its file may be deleted. Raises NotFound for a text that is not an id of a file.
        """
        created_at = None if after is None else created_at_of(after)
        if after is not None and created_at is None:  # an id of an older version
            query = "SELECT created_at FROM files WHERE tenant_id = $1 AND file_id = $2"
            created_at = await self._pool.fetchval(query, tenant_id, after)
            if created_at is None:
                raise NotFound(kind="file", name=after[:100])
        comparison, direction = (">", "ASC") if order == "asc" else ("<", "DESC")
        query = f"""
            SELECT * FROM files WHERE tenant_id = $1 AND {_LIVE}
                AND ($3::text IS NULL OR purpose = $3)
                AND ($4::double precision IS NULL OR (created_at, file_id) {comparison} ($4, $5::text))
            ORDER BY created_at {direction}, file_id {direction} LIMIT $6
        """  # noqa: S608  (constants)
        rows = await self._pool.fetch(query, tenant_id, self._clock.now(), purpose, created_at, after, limit)
        return [from_row(row, FileRecord) for row in rows]

    async def expired(self) -> Sequence[tuple[TenantId, str]]:
        """Return the files past their time that are still stored."""
        query = "SELECT tenant_id, file_id FROM files WHERE expires_at <= $1"
        rows = await self._pool.fetch(query, self._clock.now())
        return [(TenantId(row["tenant_id"]), row["file_id"]) for row in rows]

    async def remove(self, tenant_id: TenantId, file_id: str, *, is_expired: bool = False) -> FileRecord:
        """Remove a tenant's file, or an expired one, and return it.

        Data derived from its rows is erased from now on. Raises NotFound, or JobRefused while a job reads it.
        """
        wanted, now = "expires_at <= $2" if is_expired else _LIVE, self._clock.now()
        # Columns by name: `*` changes under a process of an older version, and ends its transaction once.
        columns = columns_of(FileRecord)
        lock = f"SELECT {columns} FROM files WHERE tenant_id = $1 AND {wanted} AND file_id = $3 FOR UPDATE"  # noqa: S608
        async with acquired(self._pool) as connection, connection.transaction():
            row = await connection.fetchrow(lock, tenant_id, now, file_id)
            removed = found_record(row, FileRecord, kind="file", name=file_id)
            # A statement of its own: it sees the jobs that were committed before the lock was free.
            reader = await connection.fetchval(_READER, tenant_id, file_id)
            if reader is not None:
                raise file_in_use(file_id, JobId(reader))
            await connection.execute("DELETE FROM files WHERE file_id = $1", file_id)
            await note_deleted_file(connection, tenant_id, file_id, now=now)
        return removed

    async def unused(self, *, limit: int) -> Sequence[str]:
        """Return content that no file names."""
        query = f"SELECT sha256 FROM file_blobs WHERE {_UNUSED} LIMIT $1"  # noqa: S608  (constants)
        return [row["sha256"] for row in await self._pool.fetch(query, limit)]


class _Held:
    """Content that cannot be erased while it is held."""

    def __init__(self, connection: PostgresConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def add(
        self, draft: FileDraft, content: FileContent, *, limit_bytes: int, upload_id: str | None = None
    ) -> FileRecord:
        """Add a file of this content, visible when the hold succeeds.

        Its time is set after all that the tenant added before is visible. It completes an upload if one
        is named. A repeated cause returns the file of the first one. Raises FilesFull, UploadClosed when the
        upload is no longer pending, InvalidField for a repeat with other bytes.
        """
        await self._connection.execute(LOCK_TENANT, draft.tenant_id)
        cause = draft.cause if upload_id is None else None  # an upload completes once
        row = await self._connection.fetchrow(_MADE, draft.tenant_id, cause)
        if row is not None:
            check_same(row["sha256"], content.sha256)
            return from_row(row, FileRecord)
        # Behind the lock: whoever pages by time has seen nothing that is newer.
        now = self._clock.now()
        file = new_file(draft, content, now=now)
        if upload_id is not None:
            completed = await self._connection.fetchval(_COMPLETE, upload_id, file.file_id, now)
            if completed is None:
                raise UploadClosed(upload_id=upload_id, status="not pending any more")
        held_bytes, count = await room_of(self._connection, file.tenant_id, now=now)
        check_room(held_bytes + file.size_bytes, count + 1, limit_bytes=limit_bytes)
        await self._connection.execute(_ADD, *values_of(file), cause)
        return file


async def room_of(connection: PostgresConnection, tenant_id: TenantId, *, now: float) -> tuple[int, int]:
    """Return the bytes and the number of a tenant's files and open uploads."""
    row = await connection.fetchrow(_ROOM, tenant_id, now)
    assert row is not None  # sums have a row
    return row[0], row[1]
