"""What the gateway forgets by itself, when Postgres is away just then."""

import asyncio

import pytest

from mint_common.bounds import DAY_SECONDS
from mint_common.ids import TenantId
from mint_common.runtime.postgres import migrate, open_pool
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.adapters.sampling_sessions_postgres import PostgresSamplingSessions
from services.gateway.adapters.tinker_postgres import PostgresTinkerRuns
from services.gateway.app import PRUNE_SECONDS, SCHEMA, prune
from services.gateway.core.idempotency import KEPT_SECONDS, keyed_request
from tests.integration.runtime.servers import restart_postgres
from tests.own_servers import RunningServer
from tests.testing.clock import ManualClock

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


async def test_audit_and_sessions_go_in_parts_when_they_are_old(database: str) -> None:
    pool = await open_pool(database, schema=SCHEMA)
    await migrate(pool, schema=SCHEMA, package="services.gateway.adapters.migrations")
    clock = ManualClock(1000 * DAY_SECONDS)
    requests, runs = PostgresRequests(pool, clock), PostgresTinkerRuns(pool)
    await pool.execute(
        "INSERT INTO audit (tenant_id, at, key_id, actor, method, path, status) "
        "SELECT 'ten_a', i * 8640, 'k', 'k', 'POST', '/x', 200 FROM generate_series(1, 10000) i"
    )
    await requests.prune_audit(keep_days=0)
    assert await pool.fetchval("SELECT count(*) FROM audit") == 10_000
    await requests.prune_audit(keep_days=400)
    assert await pool.fetchval("SELECT count(*), min(at) >= 600 * 86400 FROM audit") == 4001
    await pool.execute(
        "INSERT INTO tinker_sessions (session_id, tenant_id, project_id, tags, metadata, sdk_version, "
        "created_at, seen_at) SELECT 'ses_' || i, 'ten_a', 'p', '{}', '{}', '', 0, i "
        "FROM generate_series(1, 7000) i"
    )
    await pool.execute(
        "INSERT INTO tinker_runs (model_id, session_id, tenant_id, policy_id, base, base_model, lora, "
        "train_attn, train_mlp, is_trained, metadata, created_at) "
        "VALUES ('m', 'ses_1', 'ten_a', 'pol', 'b', 'b', '{}', true, true, true, '{}', 0)"
    )
    await runs.prune(before=6001)
    assert await pool.fetchval("SELECT count(*) FROM tinker_sessions") == 1001, "ses_1 has a run"
    await pool.close()
