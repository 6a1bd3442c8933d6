"""The gateway's memory of names against a real registry and bus: soon told, and bounded when nobody tells."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from mint_common.bus.nats import connect_nats
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.core.resolutions import ResolutionCache
from tests.integration.tenants import caller_of
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration

LEASE_SECONDS = 5.0
TOLD_SECONDS = 30.0
"""No lease ends, its clock stands still. On a quiet machine it takes milliseconds (benches/catalog.py)."""


@pytest.fixture
async def registry(stack, counter) -> AsyncIterator[RegistryClient]:
    async with InternalHttp(stack.registry_url, token="internal") as http:
        yield RegistryClient(http)


def new_resolver(registry: RegistryClient) -> tuple[CachedResolver, ManualClock]:
    clock = ManualClock()
    cache = ResolutionCache(
        capacity=9, lease_seconds=LEASE_SECONDS, switch_seconds=20.0, is_ready=lambda _: True
    )
    return CachedResolver(registry, cache, clock), clock


async def number_of(resolver: CachedResolver, stack, model: str) -> int:
    found = await resolver.resolve(stack.tenant_id, model)
    assert found.revision is not None
    return found.revision.number


async def test_moved_alias_is_heard_of_before_its_lease_ends(stack, registry):
    resolver, _ = new_resolver(registry)  # its clock stands still: no lease ends
    bus = await connect_nats(stack.nats_url, name="resolver")
    follower = asyncio.ensure_future(resolver.follow(bus))
    try:
        await registry.move_alias(caller_of(stack.tenant_id), "counter", "heard", revision=1)
        for number in (2, 3, 1, 2):
            await number_of(resolver, stack, "counter@heard")
            await registry.move_alias(caller_of(stack.tenant_id), "counter", "heard", revision=number)
            deadline = time.monotonic() + TOLD_SECONDS
            while await number_of(resolver, stack, "counter@heard") != number:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.002)
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        await bus.close()


async def test_without_a_watch_a_name_is_stale_for_one_lease_at_most(stack, registry):
    resolver, clock = new_resolver(registry)
    await registry.move_alias(caller_of(stack.tenant_id), "counter", "unheard", revision=1)
    assert await number_of(resolver, stack, "counter@unheard") == 1
    await registry.move_alias(caller_of(stack.tenant_id), "counter", "unheard", revision=2)
    await clock.advance(LEASE_SECONDS - 0.01)
    assert await number_of(resolver, stack, "counter@unheard") == 1
    await clock.advance(0.02)
    assert await number_of(resolver, stack, "counter@unheard") == 2


async def test_move_through_the_gateway_is_seen_by_its_next_request(stack, registry):
    resolver, _ = new_resolver(registry)
    await registry.move_alias(caller_of(stack.tenant_id), "counter", "own", revision=1)
    assert await number_of(resolver, stack, "counter@own") == 1
    await registry.move_alias(caller_of(stack.tenant_id), "counter", "own", revision=3)
    resolver.forget(stack.tenant_id, "counter")
    assert await number_of(resolver, stack, "counter@own") == 3
