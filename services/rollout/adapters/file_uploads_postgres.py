"""Files that come in parts, in Postgres.

Invariant: a part's row is there before its bytes are stored and until they are erased.
"""

from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from mint_common.job_errors import UploadClosed
from mint_common.runtime.clock import Clock
from mint_common.runtime.postgres import columns_of, found_record, from_row, insert_of, values_of
from mint_common.runtime.postgres_errors import acquired
from services.rollout.adapters.files_postgres import LOCK_TENANT, room_of
from services.rollout.core.files.records import MAX_PARTS, UPLOAD_SECONDS, PartRecord, UploadRecord
from services.rollout.core.files.refusals import check_room, check_same

_ADD = insert_of("file_uploads", UploadRecord)
_ADD_PART = insert_of("file_upload_parts", PartRecord)
_MADE = f"SELECT {columns_of(UploadRecord)} FROM file_uploads WHERE tenant_id = $1 AND cause = $2"  # noqa: S608
_MADE_PART = f"SELECT {columns_of(PartRecord)} FROM file_upload_parts WHERE upload_id = $1 AND cause = $2"  # noqa: S608
_SIZES = "SELECT coalesce(sum(size_bytes), 0)::bigint, count(*) FROM file_upload_parts WHERE upload_id = $1"
_CANCEL = """
    UPDATE file_uploads SET status = 'cancelled', ended_at = $3
    WHERE tenant_id = $1 AND upload_id = $2 AND status = 'pending' AND expires_at > $3
"""
_KEEP_PART = """
    UPDATE file_upload_parts SET is_stored = true FROM file_uploads
    WHERE part_id = $1 AND file_uploads.upload_id = file_upload_parts.upload_id AND status = 'pending'
    RETURNING part_id
"""
_EXPIRE = """
    UPDATE file_uploads SET status = 'expired', ended_at = expires_at
    WHERE status = 'pending' AND expires_at <= $1 RETURNING upload_id
"""


class PostgresFileUploads:
    """Uploads. A repeated cause returns the result of the first one. Raises Unavailable."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def add(self, upload: UploadRecord, *, limit_bytes: int) -> UploadRecord:
        """Add an upload. Raises FilesFull."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(LOCK_TENANT, upload.tenant_id)
            row = await connection.fetchrow(_MADE, upload.tenant_id, upload.cause)
            if row is not None:
                return from_row(row, UploadRecord)
            held_bytes, count = await room_of(connection, upload.tenant_id, now=self._clock.now())
            check_room(held_bytes + upload.size_bytes, count + 1, limit_bytes=limit_bytes)
            await connection.execute(_ADD, *values_of(upload))
        return upload

    async def get(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Return a tenant's upload; one past its time has expired. Raises NotFound."""
        query = "SELECT * FROM file_uploads WHERE tenant_id = $1 AND upload_id = $2"
        row = await self._pool.fetchrow(query, tenant_id, upload_id)
        upload = found_record(row, UploadRecord, kind="upload", name=upload_id)
        is_late = upload.status == "pending" and upload.expires_at <= self._clock.now()
        return replace(upload, status="expired") if is_late else upload

    async def cancel(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Cancel a pending upload. A cancelled one stays so. Raises NotFound, UploadClosed."""
        await self._pool.execute(_CANCEL, tenant_id, upload_id, self._clock.now())
        upload = await self.get(tenant_id, upload_id)
        if upload.status != "cancelled":
            raise UploadClosed(upload_id=upload_id, status=upload.status)
        return upload

    async def add_part(self, upload: UploadRecord, part: PartRecord, *, limit_bytes: int) -> PartRecord:
        """Announce a part; ``limit_bytes`` is of all that its tenant has.

        Raises UploadClosed, FilesFull, and InvalidField when its upload would have too many or too much.
        """
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(LOCK_TENANT, upload.tenant_id)
            lock = "SELECT status FROM file_uploads WHERE upload_id = $1 FOR UPDATE"
            status = await connection.fetchval(lock, part.upload_id)
            if status != "pending":
                raise UploadClosed(upload_id=part.upload_id, status=status or "gone")
            row = await connection.fetchrow(_MADE_PART, part.upload_id, part.cause)
            if row is not None:
                check_same(row["sha256"], part.sha256)
                return from_row(row, PartRecord)
            row = await connection.fetchrow(_SIZES, part.upload_id)
            assert row is not None  # sums have a row
            size_bytes, count = row
            # Twice: a part that a client sends again counts until the upload ends.
            if size_bytes + part.size_bytes > 2 * upload.size_bytes or count >= MAX_PARTS:
                problem = f"its parts would be {count + 1} with {size_bytes + part.size_bytes} bytes"
                raise InvalidField(
                    field="data", problem=f"{problem}; announced were {upload.size_bytes} bytes"
                )
            await connection.execute(_ADD_PART, *values_of(part))
            held = await room_of(connection, upload.tenant_id, now=self._clock.now())
            check_room(*held, limit_bytes=limit_bytes)
        return part

    async def keep_part(self, part: PartRecord) -> None:
        """Note that an announced part is stored. Raises UploadClosed."""
        if await self._pool.fetchval(_KEEP_PART, part.part_id) is None:
            raise UploadClosed(upload_id=part.upload_id, status="not pending any more")

    async def parts(self, upload_id: str, *, stored: bool) -> Sequence[PartRecord]:
        """Return an upload's parts: those that are stored, or all that were announced."""
        query = "SELECT * FROM file_upload_parts WHERE upload_id = $1 AND is_stored >= $2"
        return [from_row(row, PartRecord) for row in await self._pool.fetch(query, upload_id, stored)]

    async def expire(self) -> Sequence[str]:
        """Note which pending uploads are past their time; return them."""
        return [row["upload_id"] for row in await self._pool.fetch(_EXPIRE, self._clock.now())]

    async def ended(self, *, limit: int) -> Sequence[str]:
        """Return uploads that ended so long ago that no request for them is at work."""
        query = "SELECT upload_id FROM file_uploads WHERE ended_at < $1 ORDER BY ended_at LIMIT $2"
        rows = await self._pool.fetch(query, self._clock.now() - UPLOAD_SECONDS, limit)
        return [row["upload_id"] for row in rows]

    async def forget_parts(self, upload_id: str) -> None:
        """Remove the parts that were stored."""
        # One that is announced alone may be stored this moment: its row says that its bytes may be there.
        await self._pool.execute(
            "DELETE FROM file_upload_parts WHERE upload_id = $1 AND is_stored", upload_id
        )

    async def forget(self, upload_id: str) -> None:
        """Remove an upload with its parts."""
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute("DELETE FROM file_upload_parts WHERE upload_id = $1", upload_id)
            await connection.execute("DELETE FROM file_uploads WHERE upload_id = $1", upload_id)
