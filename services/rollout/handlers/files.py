"""Tenants' files: checked, stored, read, erased.

Invariants: a file is checked whole before it is stored, and visible when its bytes are stored. Content goes
when no file names it, in the request that removed its last name or, after a fault, in the next `sweep`.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from mint_common.blobs.checked import read_parts
from mint_common.blobs.port import Blobs
from mint_common.datasets import DatasetReport, Repeats, RowLine
from mint_common.errors import BlobMissing, InvalidField, NotFound, Unavailable
from mint_common.ids import TenantId
from mint_common.job_errors import JobRefused
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from services.rollout.adapters.files_postgres import PostgresFiles
from services.rollout.adapters.rows_check import RowsCheckProcess
from services.rollout.adapters.spool import LocalSpool, Spooled
from services.rollout.core.files.previews import RowsFrom
from services.rollout.core.files.records import (
    CHECKED_PURPOSE,
    FileContent,
    FileDraft,
    FileRecord,
    content_claim,
)
from services.rollout.core.files.refusals import check_room, dataset_refused

CHECKING = 2
"""Files that are checked at a time: each takes a core meanwhile."""
COMPARE_SECONDS = 60.0
"""Time that a request may spend on comparing the rows of two files."""
COMPARED = 256
"""Pairs of files whose shared rows are remembered: the jobs of a sweep all ask for one."""
STORING = 4
"""Contents that are stored at a time: each takes a connection to Postgres meanwhile."""
AT_ONCE = 100
"""Contents that a sweep erases between two looks."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKeeper:
    """Stores files. ``max_file_bytes`` limits one file, ``tenant_bytes`` all of a tenant's."""

    files: PostgresFiles
    blobs: Blobs
    spool: LocalSpool
    rows: RowsCheckProcess
    clock: Clock
    max_file_bytes: int
    tenant_bytes: int
    _checking: FairGate = field(default_factory=lambda: FairGate(CHECKING, limit=1))
    _storing: FairGate = field(default_factory=lambda: FairGate(STORING, limit=1))
    _splitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _shared: OrderedDict[tuple[TenantId, str, str], Repeats] = field(default_factory=OrderedDict)

    async def check_room(self, tenant_id: TenantId, size_bytes: int) -> int:
        """Refuse early a file beyond the tenant's quota; return the free bytes. Raises FilesFull."""
        held_bytes, count = await self.files.room(tenant_id)
        check_room(held_bytes + size_bytes, count + 1, limit_bytes=self.tenant_bytes)
        return self.tenant_bytes - held_bytes

    async def keep(self, draft: FileDraft, spooled: Spooled, *, upload_id: str | None = None) -> FileRecord:
        """Check bytes and store them as a file, which completes an upload if one is named.

        Raises DatasetRefused, InvalidField, FilesFull, UploadClosed, Unavailable.
        """
        if not spooled.size_bytes:
            raise InvalidField(field="file", problem="has no bytes")
        report = await self._check(draft, spooled)
        content = FileContent(sha256=spooled.sha256, size_bytes=spooled.size_bytes, report=report)
        try:
            async with self._storing.turn(draft.tenant_id), self.files.hold(content.sha256) as held:
                await self.blobs.put_file(content.claim.uri, spooled.path)
                return await held.add(
                    draft,
                    content,
                    limit_bytes=self.tenant_bytes,
                    upload_id=upload_id,
                )
        except BaseException:
            await asyncio.shield(self._erase_soon(content.sha256))
            raise

    async def _check(self, draft: FileDraft, spooled: Spooled) -> DatasetReport | None:
        if draft.purpose != CHECKED_PURPOSE:
            return None
        async with self._checking.turn(draft.tenant_id):
            report = await self.rows.check(spooled.path)
        if report.count:
            raise dataset_refused(report)
        return report

    async def shared_rows(self, training: FileRecord, validation: FileRecord) -> Repeats:
        """Return the rows of a validation file that its training file has too. Both are files of rows.

        In bounded memory, and `COMPARE_SECONDS`. Cached per tenant, so that the time reveals nothing
        of other tenants' files. Raises Unavailable, BlobMissing, BlobCorrupt.
        """
        tenant_id = training.tenant_id
        pair = (tenant_id, training.sha256, validation.sha256)
        if pair not in self._shared:
            try:
                async with asyncio.timeout(COMPARE_SECONDS), self._checking.turn(tenant_id):
                    if pair not in self._shared:  # requests that came at once
                        self._shared[pair] = await self.rows.shared(
                            self.read(training), self.read(validation), validation_bytes=validation.size_bytes
                        )
            except TimeoutError as error:
                raise Unavailable(what="the comparison of rows", problem="it took too long") from error
        self._shared.move_to_end(pair)
        if len(self._shared) > COMPARED:
            self._shared.popitem(last=False)
        return self._shared[pair]

    async def get(self, tenant_id: TenantId, file_id: str) -> FileRecord:
        """Return a tenant's file. Raises NotFound."""
        return await self.files.get(tenant_id, file_id)

    def read(self, file: FileRecord) -> AsyncIterator[bytes]:
        """Yield a file's bytes in parts."""
        return read_parts(self.blobs, file.claim)

    async def read_rows(self, file: FileRecord, *, first_line: int, count: int) -> list[RowLine]:
        """Return a file's first rows at or after a line. Raises NotFound when it is removed meanwhile."""
        rows = RowsFrom(first_line=first_line, count=count)
        try:
            async for chunk in self.read(file):
                async with self._splitting:
                    if not await asyncio.to_thread(rows.feed, chunk):
                        return rows.rows
        except BlobMissing:
            await self.get(file.tenant_id, file.file_id)
            raise
        return rows.finish()

    async def remove(self, tenant_id: TenantId, file_id: str, *, is_expired: bool = False) -> None:
        """Remove a file that no open job reads, and erase its bytes unless another has the same.

        Raises NotFound, JobRefused. One that ``is_expired`` is past its time; any other is not.
        """
        removed = await self.files.remove(tenant_id, file_id, is_expired=is_expired)
        await asyncio.shield(self._erase_soon(removed.sha256))

    async def sweep(self) -> None:
        """Erase what no file names, and remove files past their time that no job reads."""
        while found := await self.files.unused(limit=AT_ONCE):
            if not any([await self._erase(sha256) for sha256 in found]):
                break
        for tenant_id, file_id in await self.files.expired():
            with suppress(NotFound, JobRefused):  # removed by another process, or still read
                await self.remove(tenant_id, file_id, is_expired=True)

    async def _erase_soon(self, sha256: str) -> None:
        """Erase content now, or leave it to the next sweep when a server is away."""
        try:
            await self._erase(sha256)
        except Unavailable as error:
            _log.warning("bytes of a file are not erased yet", extra={"problem": str(error)})

    async def _erase(self, sha256: str) -> bool:
        async with self.files.erasing(sha256) as may_erase:
            if may_erase:
                await self.blobs.delete(content_claim(sha256, 0).uri)
        return may_erase
