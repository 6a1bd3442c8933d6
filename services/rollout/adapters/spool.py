"""Bytes that have arrived and are not yet stored: local files in a folder that the process holds."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from mint_common.errors import Unavailable, plain_problem
from mint_common.ids import TenantId
from mint_common.runtime.held_folder import HeldFolder, hold_folder
from mint_common.tenant_budget import BodiesFull, TenantBudget

BUFFER_BYTES = 1 << 20
_PREFIX = "mint-spool-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """Received bytes, in a local file that lives as long as its `LocalSpool.open`."""

    path: Path
    size_bytes: int
    sha256: str
    md5: str


class LocalSpool:
    """Room for bytes until they are checked and stored; made by `open_spool`. None outlives the process."""

    def __init__(self, folder: HeldFolder, budget: TenantBudget) -> None:
        self._folder = folder
        self._budget = budget

    @asynccontextmanager
    async def open(self, tenant_id: TenantId) -> AsyncIterator["LocalSpoolFile"]:
        """Open a new file."""
        path = self._folder.path / secrets.token_hex(16)
        file = await asyncio.to_thread(path.open, "xb", buffering=0)
        spooling = LocalSpoolFile(file, path, tenant_id, self._budget)
        try:
            yield spooling
        finally:
            file.close()
            try:
                await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
            finally:
                self._budget.take(tenant_id, -spooling.size_bytes)

    async def close(self) -> None:
        """Remove the folder."""
        await asyncio.to_thread(self._folder.remove)


class LocalSpoolFile:
    """A local file that is being written by one writer.

    Raises BodiesFull when too many bytes have come, Unavailable when its disk is full.
    """

    def __init__(self, file: FileIO, path: Path, tenant_id: TenantId, budget: TenantBudget) -> None:
        self._file = file
        self._path = path
        self._tenant_id = tenant_id
        self._budget = budget
        self._buffer = bytearray()
        self.size_bytes = 0
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            await self._flush()

    async def finish(self) -> Spooled:
        """Return the whole file."""
        await self._flush()
        return Spooled(
            path=self._path,
            size_bytes=self.size_bytes,
            sha256=self._sha256.hexdigest(),
            md5=self._md5.hexdigest(),
        )

    async def _flush(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        if not self._budget.fits(self._tenant_id, len(data)):
            raise BodiesFull(size_bytes=len(data), retry_after_seconds=self._budget.retry_after_seconds)
        self._budget.take(self._tenant_id, len(data))
        self.size_bytes += len(data)
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise Unavailable(what="the folder for uploads", problem=plain_problem(error)) from error

    def _append(self, data: bytes) -> None:
        self._sha256.update(data)
        self._md5.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def open_spool(parent: Path | None = None, *, limit_bytes: int) -> LocalSpool:
    """Create this process's folder, and remove those of killed processes.

    ``limit_bytes`` limits all its files together; a tenant's have at most as much as stays free.
    """
    budget = TenantBudget(total=limit_bytes, share=1, first_fits=False)
    return LocalSpool(hold_folder(_PREFIX, parent), budget)
