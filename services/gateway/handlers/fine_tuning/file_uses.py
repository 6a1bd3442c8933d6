"""Files that jobs read: removed only when no job does any more.

Invariants: a file goes in a transaction that sees every job of it, and all of them have ended. Rollout, which
erases what it made of the rows, is told of each removed file: at once, or by a later `sweep`.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mint_common.errors import MintError, NotFound
from mint_common.ids import TenantId
from services.gateway.core.fine_tuning.file_uses import FileUse, ReadingJob, file_use, newest_trained
from services.gateway.core.fine_tuning.refusals import JobRefused, file_in_use
from services.gateway.handlers.files import AT_ONCE, FileKeeper
from services.gateway.handlers.fine_tuning.jobs import FineTuningJobs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUses:
    """Which jobs read a file."""

    jobs: FineTuningJobs
    keeper: FileKeeper

    async def of(self, tenant_id: TenantId, file_id: str) -> FileUse:
        """Return what used a file. Raises Unavailable."""
        return await self._use(tenant_id, file_id, await self._readers(tenant_id, file_id))

    async def remove(self, tenant_id: TenantId, file_id: str) -> FileUse:
        """Remove a file that no job reads, and return what used it. Raises NotFound, JobRefused."""
        await self.keeper.get(tenant_id, file_id)
        readers = await self._readers(tenant_id, file_id)
        for reader in readers:
            if not reader.now.is_ended:
                raise file_in_use(file_id, reader.job.job_id)
        used = await self._use(tenant_id, file_id, readers)
        await self.keeper.remove(tenant_id, file_id, jobs=[reader.job.job_id for reader in readers])
        await self._tell(tenant_id, file_id)
        return used

    async def sweep(self) -> None:
        """Erase what no file names, and remove files past their time that no job reads.

        What is removed is erased by the next sweep at the latest: erasing does not wait for rollout.
        """
        await self.keeper.sweep()
        for tenant_id, file_id in await self.keeper.files.expired():
            readers = await self._readers(tenant_id, file_id)
            ended = [reader.job.job_id for reader in readers if reader.now.is_ended]
            with suppress(NotFound, JobRefused):  # removed by another gateway, or still read
                await self.keeper.remove(tenant_id, file_id, jobs=ended, is_expired=True)
        while removed := await self.keeper.files.untold(limit=AT_ONCE):
            if not all([await self._tell(*each) for each in removed]):
                return

    async def _tell(self, tenant_id: TenantId, file_id: str) -> bool:
        """Have rollout erase what it made of a removed file's rows; return whether it will."""
        try:
            await self.jobs.rollout.delete_file(tenant_id, file_id)
        except MintError as error:
            _log.warning("rollout is told later of a removed file", extra={"problem": str(error)})
            return False
        await self.keeper.files.note_told(file_id)
        return True

    async def _readers(self, tenant_id: TenantId, file_id: str) -> list[ReadingJob]:
        found = await self.jobs.submissions.using(tenant_id, file_id)
        return await self.jobs.all_progress(tenant_id, found)

    async def _use(self, tenant_id: TenantId, file_id: str, readers: Sequence[ReadingJob]) -> FileUse:
        newest = newest_trained(file_id, readers)
        return file_use(file_id, readers, await self.jobs.all_progress(tenant_id, newest, steps=True))
