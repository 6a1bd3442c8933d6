"""What the gateway forgets by itself, when Postgres is away just then."""

import asyncio

import pytest

from mint_common.ids import TenantId
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.testing.clock import ManualClock
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.app import PRUNE_SECONDS, SCHEMA, prune
from services.gateway.core.idempotency import KEPT_SECONDS, keyed_request
from tests.conftest import RunningServer
from tests.integration.runtime.servers import restart_postgres

pytestmark = pytest.mark.integration


async def test_an_outage_at_the_tick_costs_the_tick_and_not_the_gateway(own_postgres: RunningServer) -> None:
    pool = await open_pool(own_postgres.address, schema=SCHEMA)
    await migrate(pool, schema=SCHEMA, package="services.gateway.adapters.migrations")
    clock = ManualClock(KEPT_SECONDS)
    requests, sessions = PostgresRequests(pool, clock), PostgresSamplingSessions(pool, clock)
    pruning = asyncio.create_task(
        prune({"requests": requests.prune, "sampling sessions": sessions.prune}, clock)
    )

    async def both_rest() -> None:
        async with asyncio.timeout(30):
            while len(clock._sleepers) < 2 and not pruning.done():
                await asyncio.sleep(0.01)
        assert not pruning.done()

    try:
        await both_rest()
        await requests.begin(keyed_request(TenantId("ten_a"), "old", method="POST", target="/x", body=b""))
        await pool.execute("UPDATE requests SET begun_at = 0")
        own_postgres.kill()
        await clock.advance(PRUNE_SECONDS)
        await both_rest()
        await restart_postgres(own_postgres)
        assert await pool.fetchval("SELECT count(*) FROM requests") == 1
        await clock.advance(PRUNE_SECONDS)
        await both_rest()
        assert await pool.fetchval("SELECT count(*) FROM requests") == 0
    finally:
        pruning.cancel()
        await asyncio.gather(pruning, return_exceptions=True)
        await pool.close()
