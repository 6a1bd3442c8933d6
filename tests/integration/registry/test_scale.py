"""The catalog at size: names resolve by index."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from contract.catalog_rig import BASE, NOW, TENANT, Store, by, fill, store_over

from mint_common.catalog import EvaluationRecord, PolicyFilter
from mint_common.errors import NotFound
from mint_common.ids import EvaluationId
from mint_common.runtime.postgres import migrate, open_pool
from services.registry.adapters.policies_postgres import list_query
from services.registry.core.keys import hash_key
from services.registry.core.lineage import Reach
from services.registry.core.names import parse_model

pytestmark = pytest.mark.integration

POLICIES = 30_000
BIG = ("policies", "policy_labels", "revisions", "aliases", "alias_history", "evaluations")
_FILL = """
    INSERT INTO policies
    SELECT 'pol_' || n, $1, 'name-' || n, $2,
           '{"rank": 2, "alpha": 4, "targets": ["q_proj"], "seed": 1}', now()
    FROM generate_series(1, $3::int) n
"""
_FILL_REVISIONS = """
    INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
                           step, metrics, export_id, created_at)
    SELECT 'pol_' || n, k, 'sha256:' || encode(sha256((n || '.' || k)::bytea), 'hex'),
           'm', 'm', 1, k, '{}', 'e', now()
    FROM generate_series(1, $1::int) n, generate_series(1, 2) k
"""
_FILL_ALIASES = "INSERT INTO aliases SELECT policy_id, 'stage', 1, 1 FROM policies"
_FILL_HISTORY = """
    INSERT INTO alias_history
    SELECT policy_id, alias, 1, NULL, 'sha256:x', 1, NULL, 'a', '', now() FROM aliases
"""
_FILL_EVALUATIONS = """
    INSERT INTO evaluations (evaluation_id, policy_id, number, suite, metric, value, n, actor, created_at)
    SELECT policy_id, policy_id, 1, 's', 'm', 0.5, 1, 'a', now() FROM policies
"""
_FILL_LABELS = """
    INSERT INTO policy_labels
    SELECT policy_id, label, hashtext(policy_id || label) & 127, tenant_id, name
    FROM policies, unnest('{team,stage}'::text[]) label
"""
_SCANS = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'registry'"


SELECTIONS = (
    PolicyFilter(base=BASE.name),
    PolicyFilter(base="other"),
    PolicyFilter(labels=(("team", "7"),)),
    PolicyFilter(labels=(("stage", "7"), ("team", "7"))),
    PolicyFilter(labels=(("team", "none"),)),
    PolicyFilter(created_after=0.0),
    PolicyFilter(created_after=2.0**34),
    PolicyFilter(created_before=2.0**34, base=BASE.name, labels=(("team", "7"),)),
)
WITHOUT_REVISION = (
    PolicyFilter(has_revision=False),
    PolicyFilter(has_revision=False, created_after=0.0),
)
"""What no policy fits here: finding that out costs no walk over all of them."""


async def _scans(dsn: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    try:
        return {row["relname"]: row["seq_scan"] for row in await connection.fetch(_SCANS)}
    finally:
        await connection.close()


@asynccontextmanager
async def _opened(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(dsn, schema="registry")
    try:
        yield pool
    finally:
        await pool.close()


async def _prepare(pool: asyncpg.Pool) -> Store:
    await migrate(pool, schema="registry", package="services.registry.adapters.migrations")
    store = store_over(pool)
    await fill(store)
    return store


async def test_hot_paths_never_scan_a_table(database: str) -> None:
    """Postgres itself counts sequential scans; what a closed connection did is in its counters."""
    async with _opened(database) as pool:
        await _prepare(pool)
        await pool.execute(_FILL, TENANT, BASE.name, POLICIES)
        await pool.execute(_FILL_REVISIONS, POLICIES)
        for fill_table in (_FILL_ALIASES, _FILL_HISTORY, _FILL_EVALUATIONS, _FILL_LABELS):
            await pool.execute(fill_table)
        for table in BIG:
            await pool.execute(f"ANALYZE {table}")
        for wanted in WITHOUT_REVISION:
            assert await _rows_read(pool, wanted) == 0, wanted
    before = await _scans(database)
    async with _opened(database) as pool:
        await _walk_hot_paths(store_over(pool))
    after = await _scans(database)
    assert {table: after[table] - before[table] for table in BIG} == dict.fromkeys(BIG, 0)


async def _rows_read(pool: asyncpg.Pool, wanted: PolicyFilter) -> int:
    """Return how many rows a page of policies reads, those that do not fit counted too."""
    query, arguments = list_query(TENANT, wanted, limit=100, after="", created_at=None)
    (found,) = json.loads(await pool.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments))

    def read(node: dict[str, Any]) -> int:  # Any: Postgres's own JSON
        filtered = node.get("Rows Removed by Filter", 0)
        return node["Actual Rows"] + filtered + sum(map(read, node.get("Plans", ())))

    return read(found["Plan"])


async def _walk_hot_paths(store: Store) -> None:
    policy = await store.catalog.policy(TENANT, "name-700")
    first, second = [
        revision.ref for revision in await store.catalog.revisions(policy.policy_id, limit=9, after=0)
    ]
    await store.aliases.move(policy, "prod", first, by("a"), expected="")
    await store.aliases.move(policy, "prod", second, by("a"), expected=None)
    await store.aliases.roll_back(policy, "prod", by("a"), expected=None)
    for model in ("name-700", "name-1", "name-700@prod", "name-29999@2", f"name-700@{second.digest}"):
        await store.catalog.resolve(TENANT, parse_model(model))
    with pytest.raises(NotFound):  # what is not there is asked for as well
        await store.catalog.resolve(TENANT, parse_model("name-x"))
    assert len(await store.catalog.policies(TENANT, limit=100, after="name-2")) == 100
    for wanted in SELECTIONS:
        after = None
        for _ in range(3):
            page = await store.catalog.policies(TENANT, wanted, limit=20, after=after)
            after = page[-1].name if page else "name-1"
    await store.owners.of_digests(TENANT, [second.digest])
    assert await store.owners.of_prefix(TENANT, second.digest[7:23], limit=9)
    assert await store.aliases.periods(policy.policy_id, second.number, limit=9)
    await store.catalog.related(policy.policy_id, first.number, Reach(descendants=9), limit=9)
    evaluation = EvaluationRecord(
        evaluation_id=EvaluationId("eval_1"),
        digest=first.digest,
        number=first.number,
        suite="s",
        metric="m",
        value=1.0,
        n=1,
        actor="a",
        created_at=NOW,
    )
    await store.evaluations.add(policy, evaluation)
    await store.evaluations.list(policy.policy_id, limit=9, after=None)
    await store.aliases.aliases(policy.policy_id)
    await store.accounts.owner_of(hash_key("tml-x"), now=NOW)
