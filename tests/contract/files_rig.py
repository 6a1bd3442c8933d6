"""Files over real Postgres and local blobs. As a program: does one thing to a file, and is killed in it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import Claim
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock, SystemClock
from mint_common.runtime.postgres import open_pool
from services.rollout.adapters.file_uploads_postgres import PostgresFileUploads
from services.rollout.adapters.files_postgres import PostgresFiles
from services.rollout.adapters.rows_check import RowsCheckProcess
from services.rollout.adapters.spool import open_spool
from services.rollout.core.files.records import FileDraft, FileRecord
from services.rollout.handlers.file_uploads import UploadKeeper
from services.rollout.handlers.files import FileKeeper

MINE, OTHERS = TenantId("ten_mine"), TenantId("ten_other")
ROWS = b'{"text": "a"}\n{"text": "b"}\n'


def draft(tenant: TenantId = MINE, *, purpose: str = "fine-tune", expires: int | None = None) -> FileDraft:
    """Return what a client says of a file."""
    return FileDraft(tenant_id=tenant, filename="a.jsonl", purpose=purpose, expires_after_seconds=expires)


@asynccontextmanager
async def keeper(
    pool: asyncpg.Pool, blobs: LocalBlobs, folder: Path, clock: Clock, *, tenant_bytes: int = 1000
) -> AsyncIterator[UploadKeeper]:
    """Open what keeps files and uploads."""
    spool = await asyncio.to_thread(open_spool, folder, limit_bytes=20_000)
    files = FileKeeper(
        files=PostgresFiles(pool, clock),
        blobs=blobs,
        spool=spool,
        rows=RowsCheckProcess(),
        clock=clock,
        max_file_bytes=600,
        tenant_bytes=tenant_bytes,
    )
    try:
        yield UploadKeeper(uploads=PostgresFileUploads(pool, clock), keeper=files)
    finally:
        await spool.close()


async def keep(files: FileKeeper, data: bytes, said: FileDraft | None = None) -> FileRecord:
    """Store bytes as a file, as a request does."""
    async with files.spool.open((said or draft()).tenant_id) as sink:
        await sink.write(data)
        return await files.keep(said or draft(), await sink.finish())


async def keep_in_parts(uploads: UploadKeeper, *parts: bytes) -> FileRecord:
    """Store bytes as a file that comes in parts."""
    upload = await uploads.create(draft(), size_bytes=sum(map(len, parts)), mime_type="application/jsonl")
    ids = []
    for data in parts:
        async with uploads.keeper.spool.open(MINE) as sink:
            await sink.write(data)
            ids.append((await uploads.add_part(upload, await sink.finish())).part_id)
    return (await uploads.complete(MINE, upload.upload_id, ids, md5=None))[1]


class KillingBlobs(LocalBlobs):
    """Kills the process at a point of its dealings with the store."""

    def __init__(self, root: Path, point: str) -> None:
        super().__init__(root)
        self._point = point

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store; the process may die before or after."""
        self._die("before put")
        claim = await super().put_file(key, path)
        self._die("after put")
        return claim

    async def delete(self, key: str) -> None:
        """Remove; the process may die before or after."""
        self._die("before delete")
        await super().delete(key)
        self._die("after delete")

    def _die(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(dsn: str, folder: str, act: str, point: str) -> None:
    """Keep a file, whole or in parts, or keep one and remove it."""
    pool = await open_pool(dsn, schema="rollout")
    blobs = KillingBlobs(Path(folder) / "blobs", point)
    async with keeper(pool, blobs, Path(folder), SystemClock()) as uploads:
        if act == "parts":
            await keep_in_parts(uploads, ROWS[:20], ROWS[20:])
        else:
            file = await keep(uploads.keeper, ROWS)
            if act == "remove":
                await uploads.keeper.remove(MINE, file.file_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
