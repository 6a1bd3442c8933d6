"""What is on its way takes no more of a disk than it may."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mint_common.ids import TenantId
from mint_common.tenant_budget import BodiesFull
from services.rollout.adapters.spool import BUFFER_BYTES, open_spool

MINE, OTHERS = TenantId("ten_mine"), TenantId("ten_other")
DATA = b"x" * BUFFER_BYTES


async def test_a_tenant_spools_at_most_what_stays_free(
    tmp_path: Path,
) -> None:
    spool = open_spool(tmp_path, limit_bytes=4 * BUFFER_BYTES)
    async with AsyncExitStack() as stack:
        files = [await stack.enter_async_context(spool.open(MINE)) for _ in range(3)]
        for file in files[:2]:
            await file.write(DATA)
        with pytest.raises(BodiesFull):
            await files[2].write(DATA)
        theirs = await stack.enter_async_context(spool.open(OTHERS))
        await theirs.write(DATA)
        with pytest.raises(BodiesFull):
            await theirs.write(DATA)
        written = [path for path in tmp_path.glob("mint-spool-*/*") if path.stat().st_size]
        assert len(written) == 3
    async with spool.open(MINE) as file:
        for _ in range(2):
            await file.write(DATA)
        assert (await file.finish()).size_bytes == 2 * BUFFER_BYTES
    await spool.close()
