"""The use of the KV cache that a loader reports, of a real engine: what is open, and nothing afterwards."""

import asyncio

import pytest

from mint_common.generation import CacheUse, SampleRequest, Sampling
from mint_common.ids import TenantId
from tests.integration.loader.conftest import Rig

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def test_a_loader_says_how_full_its_engine_s_cache_is(rig: Rig) -> None:
    request = SampleRequest(
        request_id="r",
        tenant_id=TenantId("t"),
        revision=None,
        tokens=(1, 2, 3),
        sampling=Sampling(max_new_tokens=200, temperature=1.0, seed=0, n=8, ignore_eos=True),
    )
    sampling = asyncio.create_task(rig.client.sample(request))
    seen: list[CacheUse] = []
    while not sampling.done():
        found = (await rig.client.load()).cache
        seen += [] if found is None else [found]
        await asyncio.sleep(0.05)
    await sampling
    assert 0 < max(use.share for use in seen) <= 1
    assert max(use.running for use in seen) == 8
    after = (await rig.client.load()).cache
    assert after == CacheUse(share=0.0, running=0, waiting=0, preemptions=0)
