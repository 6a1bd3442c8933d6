"""Files that come in parts: the parts are blobs of their own until they are put together."""

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mint_common.blobs.checked import read_parts
from mint_common.errors import BlobMissing, InvalidField
from mint_common.ids import TenantId, new_id
from mint_common.job_errors import UploadClosed
from services.rollout.adapters.file_uploads_postgres import PostgresFileUploads
from services.rollout.adapters.spool import Spooled
from services.rollout.core.files.records import (
    UPLOAD_SECONDS,
    FileDraft,
    FileRecord,
    IdPrefix,
    PartRecord,
    UploadRecord,
    check_parts,
)
from services.rollout.handlers.files import AT_ONCE, FileKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadKeeper:
    """Stores uploads until they are files or have expired."""

    uploads: PostgresFileUploads
    keeper: FileKeeper

    async def create(self, draft: FileDraft, *, size_bytes: int, mime_type: str) -> UploadRecord:
        """Begin an upload. Raises InvalidField, FilesFull."""
        if not 0 < size_bytes <= self.keeper.max_file_bytes:
            problem = f"must be a number from 1 to {self.keeper.max_file_bytes}"
            raise InvalidField(field="bytes", problem=problem)
        now = self.keeper.clock.now()
        upload = UploadRecord(
            **asdict(draft),
            upload_id=new_id(IdPrefix.UPLOAD),
            size_bytes=size_bytes,
            mime_type=mime_type,
            status="pending",
            created_at=now,
            expires_at=now + UPLOAD_SECONDS,
            file_id=None,
        )
        return await self.uploads.add(upload, limit_bytes=self.keeper.tenant_bytes)

    async def pending(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Return an upload that takes parts. Raises NotFound, UploadClosed."""
        upload = await self.uploads.get(tenant_id, upload_id)
        if upload.status != "pending":
            raise UploadClosed(upload_id=upload_id, status=upload.status)
        return upload

    async def add_part(
        self, upload: UploadRecord, spooled: Spooled, *, cause: str | None = None
    ) -> PartRecord:
        """Store a part, once for each cause. Raises InvalidField, FilesFull, UploadClosed."""
        part = PartRecord(
            part_id=new_id(IdPrefix.PART),
            upload_id=upload.upload_id,
            sha256=spooled.sha256,
            size_bytes=spooled.size_bytes,
            created_at=self.keeper.clock.now(),
            cause=cause,
        )
        part = await self.uploads.add_part(upload, part, limit_bytes=self.keeper.tenant_bytes)
        await self.keeper.blobs.put_file(part.claim.uri, spooled.path)
        try:
            await self.uploads.keep_part(part)
        except UploadClosed:
            # It ended meanwhile, and its parts were perhaps erased before this one was stored.
            await asyncio.shield(self.keeper.blobs.delete(part.claim.uri))
            raise
        return part

    async def complete(
        self, tenant_id: TenantId, upload_id: str, part_ids: Sequence[str], *, md5: str | None
    ) -> tuple[UploadRecord, FileRecord]:
        """Join the parts to a file. A completed upload, also one completed meanwhile, stays unchanged.

        Raises NotFound, UploadClosed, and the errors of `FileKeeper.keep`; then the upload stays pending.
        """
        upload = await self.uploads.get(tenant_id, upload_id)
        try:
            if upload.status != "completed":
                await self._complete(upload, part_ids, md5=md5)
        except (UploadClosed, BlobMissing, InvalidField):
            # Another request may have completed it, and erased its parts.
            if (await self.uploads.get(tenant_id, upload_id)).status != "completed":
                raise
        completed = await self.uploads.get(tenant_id, upload_id)
        assert completed.file_id is not None  # written with the status
        return completed, await self.keeper.get(tenant_id, completed.file_id)

    async def _complete(self, upload: UploadRecord, part_ids: Sequence[str], *, md5: str | None) -> None:
        upload_id = upload.upload_id
        if upload.status != "pending":
            raise UploadClosed(upload_id=upload_id, status=upload.status)
        parts = check_parts(upload, part_ids, await self.uploads.parts(upload_id, stored=True))
        async with self.keeper.spool.open(upload.tenant_id) as whole:
            for part in parts:
                async for data in read_parts(self.keeper.blobs, part.claim):
                    await whole.write(data)
            spooled = await whole.finish()
            if md5 is not None and not hmac.compare_digest(md5.lower().encode(), spooled.md5.encode()):
                raise InvalidField(field="md5", problem=f"the parts have {spooled.md5}")
            await self.keeper.keep(upload, spooled, upload_id=upload_id)
        await self._erase_parts(upload_id)

    async def cancel(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Give an upload up, and erase its parts. Raises NotFound, UploadClosed."""
        upload = await self.uploads.cancel(tenant_id, upload_id)
        await self._erase_parts(upload_id)
        return upload

    async def sweep(self) -> None:
        """Erase the parts of uploads that ended, and forget those of long ago."""
        for upload_id in await self.uploads.expire():
            await self._erase_parts(upload_id)
        while ended := await self.uploads.ended(limit=AT_ONCE):
            for upload_id in ended:
                await self._erase_parts(upload_id)
                await self.uploads.forget(upload_id)

    async def _erase_parts(self, upload_id: str) -> None:
        for part in await self.uploads.parts(upload_id, stored=False):
            await self.keeper.blobs.delete(part.claim.uri)
        await self.uploads.forget_parts(upload_id)
