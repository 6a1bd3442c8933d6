"""What the gateway needs for tenants' files: rows, a check of rows, room on a disk while bytes arrive."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mint_common.datasets import DatasetReport, Repeats
from mint_common.ids import JobId, TenantId
from services.gateway.core.files.records import (
    FileContent,
    FileDraft,
    FileRecord,
    Order,
    PartRecord,
    UploadRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """Bytes that have arrived, in a local file that lives as long as its `Spool.open`."""

    path: Path
    size_bytes: int
    sha256: str
    md5: str


class SpoolFile(Protocol):
    """A local file that is being written. One writer."""

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises BodiesFull when too many have come, Unavailable when its disk is full."""
        ...

    async def finish(self) -> Spooled:
        """Return the whole file. Raises what `write` raises."""
        ...


class Spool(Protocol):
    """Room for bytes until they are checked and stored. None of it outlives the process for long."""

    def open(self, tenant_id: TenantId) -> AbstractAsyncContextManager[SpoolFile]:
        """Open a new file of a tenant, which is removed at the end of the block."""
        ...


class RowsCheck(Protocol):
    """The check of a file of rows, away from the event loop."""

    async def check(self, path: Path) -> DatasetReport:
        """Return what a local file is. Raises Unavailable when it takes too long."""
        ...

    async def shared(
        self, training: AsyncIterator[bytes], validation: AsyncIterator[bytes], *, validation_bytes: int
    ) -> Repeats:
        """Return the rows of a validation file of so many bytes that a training file has too.

        Both were checked before, and come in parts. Raises Unavailable, and what the iterators raise.
        """
        ...


class HeldContent(Protocol):
    """Content that cannot be erased while it is held."""

    async def add(
        self,
        draft: FileDraft,
        content: FileContent,
        *,
        limit_bytes: int,
        upload_id: str | None = None,
    ) -> FileRecord:
        """Add a file of this content, visible when the hold ends well.

        Its time is taken when all that the tenant added before is visible. It completes an upload if one
        is named. A repeated cause returns the file that it has made. Raises FilesFull, UploadClosed when the
        upload is not pending any more, InvalidField for a repeat with other bytes.
        """
        ...


class Files(Protocol):
    """Rows of files. Those past their time are not there. Raises Unavailable."""

    def hold(self, sha256: str) -> AbstractAsyncContextManager[HeldContent]:
        """Hold content while it is stored and a file is made that names it; a failed block makes none."""
        ...

    def erasing(self, sha256: str) -> AbstractAsyncContextManager[bool]:
        """Yield whether content may be erased: no file names it and nobody holds it, until the block ends.

        The content is forgotten when the block ends well.
        """
        ...

    async def room(self, tenant_id: TenantId) -> tuple[int, int]:
        """Return the bytes and the number of a tenant's files and open uploads.

        An upload has what it announced or what its parts have, whichever is more; one that was cancelled or
        has expired has its parts until they are forgotten.
        """
        ...

    async def is_made(self, tenant_id: TenantId, cause: str | None) -> bool:
        """Return whether a request has made a file that is still there; None made none."""
        ...

    async def get(self, tenant_id: TenantId, file_id: str) -> FileRecord:
        """Return a tenant's file. Raises NotFound."""
        ...

    async def page(
        self, tenant_id: TenantId, *, purpose: str | None, order: Order, after: str | None, limit: int
    ) -> Sequence[FileRecord]:
        """Return a tenant's files by age; ``after`` is the last id of the page before.

        Its file may be gone. Raises NotFound for what is no id of a file.
        """
        ...

    async def expired(self) -> Sequence[tuple[TenantId, str]]:
        """Return the files past their time that are still stored."""
        ...

    async def remove(
        self, tenant_id: TenantId, file_id: str, *, jobs: Collection[JobId], is_expired: bool = False
    ) -> FileRecord:
        """Remove a tenant's file, or one that is past its time, and return what it was.

        Raises NotFound, or JobRefused when a job that is not among ``jobs`` reads it.
        """
        ...

    async def untold(self, *, limit: int) -> Sequence[tuple[TenantId, str]]:
        """Return files that were removed, and whose removal rollout was not told of."""
        ...

    async def note_told(self, file_id: str) -> None:
        """Note that rollout knows that a file is removed. Idempotent."""
        ...

    async def unused(self, *, limit: int) -> Sequence[str]:
        """Return content that no file names."""
        ...


class FileUploads(Protocol):
    """Rows of files that come in parts. Raises Unavailable."""

    async def add(self, upload: UploadRecord, *, limit_bytes: int) -> UploadRecord:
        """Add an upload and return it, for a repeated cause the first one. Raises FilesFull."""
        ...

    async def get(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Return a tenant's upload; one past its time has expired. Raises NotFound."""
        ...

    async def cancel(self, tenant_id: TenantId, upload_id: str) -> UploadRecord:
        """Cancel a pending upload. A cancelled one stays so. Raises NotFound, UploadClosed."""
        ...

    async def add_part(self, upload: UploadRecord, part: PartRecord, *, limit_bytes: int) -> PartRecord:
        """Announce a part and return it, for a repeated cause the first one.

        ``limit_bytes`` is of all that its tenant has.

        Raises UploadClosed, FilesFull, and InvalidField when its upload would have too many or too much.
        """
        ...

    async def keep_part(self, part: PartRecord) -> None:
        """Note that an announced part is stored. Raises UploadClosed."""
        ...

    async def parts(self, upload_id: str, *, stored: bool) -> Sequence[PartRecord]:
        """Return an upload's parts: those that are stored, or all that were announced."""
        ...

    async def expire(self) -> Sequence[str]:
        """Note which pending uploads are past their time; return them."""
        ...

    async def ended(self, *, limit: int) -> Sequence[str]:
        """Return uploads that ended so long ago that no request for them is at work."""
        ...

    async def forget_parts(self, upload_id: str) -> None:
        """Remove the parts of an ended upload that were stored and are erased; they take no room any more."""
        ...

    async def forget(self, upload_id: str) -> None:
        """Remove an upload with its parts."""
        ...
