"""Uploads that come slowly hold no place that another tenant's upload needs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from contract.catalog_rig import BASE, Store, add_policy

from mint_common.blobs.localfs import LocalBlobs
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.registry.handlers.uploads import UploadHandler
from tests.security.test_magnitudes import DEFAULT_RATIO, as_tar
from tests.testing.adapters import make_tensors


async def test_a_third_tenant_uploads_at_once_while_two_drip(store: Store, tmp_path: Path) -> None:
    policy = await add_policy(store)
    handler = UploadHandler(
        catalog=store.catalog, blobs=LocalBlobs(tmp_path), clock=SystemClock(), max_update_ratio=DEFAULT_RATIO
    )

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.2)

    dripping = [
        asyncio.create_task(
            handler.upload(replace(policy, tenant_id=TenantId(tenant)), drip(), step=0, parent=None)
        )
        for tenant in ("ten_dripping", "ten_slow")
        for _ in range(20)
    ]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        taken = await handler.upload(policy, as_tar(make_tensors(BASE)), step=1, parent=None)
    assert taken.number == 1
    for task in dripping:
        task.cancel()
    ended = await asyncio.gather(*dripping, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), "each was still dripping"
