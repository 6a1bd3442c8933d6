"""A tenant's lists over all its policies read rows of their page alone, whatever other tenants have."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from contract.catalog_rig import BASE, OTHER, TENANT, fill, store_over
from contract.schemas import empty_schema

from mint_common.timeline import END
from services.registry.adapters import timeline_postgres
from services.registry.adapters.faulty_postgres import ALIASES, FAULTY
from services.rollout.adapters import timeline_postgres as job_timeline

pytestmark = pytest.mark.integration

POLICIES, PAGE = 100_000, 50
_POLICIES = """
    INSERT INTO policies
    SELECT 'pol_' || n, CASE WHEN n % 10 = 0 THEN $1 ELSE $2 END, 'name-' || n, $3,
           '{"rank": 2, "alpha": 4, "targets": ["q_proj"], "seed": 1}', now()
    FROM generate_series(1, $4::int) n
"""
_REVISIONS = """
    INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
                           step, metrics, export_id, created_at, state, fault)
    SELECT 'pol_' || n, 1, 'sha256:' || n, 'm', 'm', 1, 1, '{}', 'e', now(), 'published',
           CASE WHEN n % 10 > 0 OR n % 1000 = 0 THEN 'missing' END
    FROM generate_series(1, $1::int) n
"""
_FILL = (
    "INSERT INTO aliases SELECT policy_id, 'stage', 1, 1 FROM policies",
    """
    INSERT INTO alias_history
    SELECT policy_id, alias, 1, NULL, 'sha256:x', 1, NULL, 'a', '',
        now() - random() * interval '30 days' FROM aliases
    """,
    """
    INSERT INTO evaluations (evaluation_id, policy_id, number, suite, metric, value, n, actor, created_at)
    SELECT policy_id, policy_id, 1, 's', 'm', 0.5, 1, 'a', now() - random() * interval '30 days'
    FROM policies
    """,
    """
    INSERT INTO exports SELECT tenant_id, policy_id, 'e', 'sha256:x', 1, NULL, NULL,
        now() - random() * interval '30 days' FROM policies
    """,
)
_JOBS = """
    INSERT INTO jobs (job_id, tenant_id, base, policy_id, lora, spec, state, reason, steps_done, cause,
                      created_at, progress_at, finished_at)
    SELECT 'job_' || n, CASE WHEN n % 10 = 0 THEN $1 ELSE $2 END, 'tiny', 'pol_' || n, '{}', '{}', 'failed',
           '', 1, 'c' || n, 1.7e9 + n, 1.7e9 + n, 1.7e9 + n + 7
    FROM generate_series(1, $3::int) n
"""


@asynccontextmanager
async def _registry(dsn: str, *, policies: int) -> AsyncIterator[asyncpg.Pool]:
    """Open a registry in which a tenth of the policies is one tenant's; all others have lost revisions."""
    async with empty_schema(dsn, "registry") as pool:
        await fill(store_over(pool))
        await pool.execute(_POLICIES, TENANT, OTHER, BASE.name, policies)
        await pool.execute(_REVISIONS, policies)
        for statement in _FILL:
            await pool.execute(statement)
        for table in ("policies", "revisions", "alias_history", "evaluations", "exports", "aliases"):
            await pool.execute(f"ANALYZE {table}")
        yield pool


async def _read(pool: asyncpg.Pool, query: str, *arguments: object) -> tuple[int, set[str]]:
    """Return how many rows a query reads, those that do not fit counted too, and the indexes that it uses."""
    (found,) = json.loads(await pool.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments))
    rows, indexes = 0, set()

    def walk(node: dict[str, Any]) -> None:  # Any: Postgres's own JSON
        nonlocal rows
        indexes.add(node.get("Index Name", ""))
        if "Scan" in node["Node Type"] and "Plans" not in node:
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows += (node["Actual Rows"] + removed) * node["Actual Loops"]
        for each in node.get("Plans", ()):
            walk(each)

    walk(found["Plan"])
    return rows, indexes


async def test_a_page_of_a_tenant_s_lists_reads_its_own_rows_alone(database: str) -> None:
    async with _registry(database, policies=POLICIES) as registry:
        await _check_timeline(registry)
        rows, indexes = await _read(registry, FAULTY, TENANT, "", 0, PAGE, ALIASES)
        assert "revisions_faulty_of_tenant" in indexes
        assert rows <= 8 * PAGE, rows


async def _check_timeline(registry: asyncpg.Pool) -> None:
    store = timeline_postgres.PostgresTimeline(registry)
    first = await store.entries(TENANT, limit=PAGE, before=END)
    assert [entry.place for entry in first] == sorted((entry.place for entry in first), reverse=True)
    assert {int(entry.policy_id.removeprefix("pol_")) % 10 for entry in first} == {0}
    middle = 1_000_000 * (await registry.fetchval("SELECT extract(epoch FROM now())::bigint") - 15 * 86400)
    for microseconds in (END.microseconds, middle):
        rows, indexes = await _read(
            registry, timeline_postgres.OF_TENANT, TENANT, microseconds / 1e6, "", PAGE
        )
        assert {"alias_history_of_tenant", "exports_of_tenant", "evaluations_of_tenant"} <= indexes
        assert rows <= 8 * PAGE, rows


async def test_a_revision_is_listed_while_it_is_faulty(database: str) -> None:
    seen = []
    async with _registry(database, policies=10) as registry:
        for change in (
            "step = 2",
            "fault = 'wrong'",
            "fault = NULL",
            "state = 'quarantined'",
            "state = 'retired'",
            "state = 'published', fault = 'missing'",
            "fault = 'collected'",
        ):
            changed = f"UPDATE revisions SET {change} WHERE policy_id = 'pol_10' RETURNING faulty_tenant"
            seen.append(await registry.fetchval(changed))
    assert seen == [None, TENANT, None, TENANT, None, TENANT, None]


async def test_a_page_of_a_tenant_s_jobs_reads_its_own_rows_alone(database: str) -> None:
    async with empty_schema(database, "rollout") as pool:
        await pool.execute(_JOBS, TENANT, OTHER, POLICIES)
        await pool.execute("ANALYZE jobs")
        first = await job_timeline.job_entries(pool, TENANT, limit=PAGE, before=END)
        assert len({entry.place for entry in first}) == PAGE
        assert {int(entry.policy_id.removeprefix("pol_")) % 10 for entry in first} == {0}
        for before in (float(END.microseconds), 1.7e15 + POLICIES * 5e5):
            rows, indexes = await _read(pool, job_timeline.OF_TENANT, TENANT, before, "", PAGE)
            assert {"jobs_submitted_of_tenant", "jobs_finished_of_tenant"} <= indexes
            assert rows <= 4 * PAGE, rows
