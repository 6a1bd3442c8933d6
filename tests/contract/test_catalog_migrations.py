"""The catalog's migrations beside a process of the version before: it serves, and neither deadlocks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mint_common.runtime import migration
from mint_common.runtime.migration import Migration, migrate, read_migrations
from mint_common.runtime.postgres import open_pool

pytestmark = pytest.mark.integration

PACKAGE = "services.registry.adapters.migrations"
BEFORE = """
    INSERT INTO tenants VALUES ('t', 't', now());
    INSERT INTO bases VALUES ('b', '', '{}', now());
    INSERT INTO policies (policy_id, tenant_id, name, base, lora, created_at)
    SELECT 'p' || i, 't', 'n' || i, 'b', '{}', now() FROM generate_series(1, 3) i;
"""
REVISION = """
    INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, manifest_size_bytes,
        step, metrics, export_id, created_at, state)
    VALUES ($1, $2, gen_random_uuid(), '', '', 1, 1, '{}', gen_random_uuid(), now(), $3)
"""
READS = (
    "SELECT * FROM policies",
    "SELECT * FROM revisions",
    "SELECT * FROM tenants",
    "SELECT * FROM api_keys",
)


@asynccontextmanager
async def catalog_of(
    database: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> AsyncIterator[asyncpg.Pool]:
    """Open a catalog with the migrations before one."""

    def older(package: str) -> list[Migration]:
        return [made for made in read_migrations(package) if made.name < before]

    pool = await open_pool(database, schema="registry")
    with monkeypatch.context() as patch:
        patch.setattr(migration, "read_migrations", older)
        await migrate(pool, schema="registry", package=PACKAGE)
    await pool.execute(BEFORE)
    try:
        yield pool
    finally:
        await pool.close()


async def test_what_takes_long_stops_no_reader(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with catalog_of(database, monkeypatch, "0070") as pool:
        for made in read_migrations(PACKAGE):
            if made.name < "0070":
                continue
            is_instant = not any(long in made.sql for long in ("UPDATE ", "INSERT INTO", "CREATE INDEX"))
            async with pool.acquire() as migrating, pool.acquire() as reader:
                async with migrating.transaction():
                    await migrating.execute(made.sql)
                    if not is_instant:
                        for read in READS:
                            await reader.fetch(read, timeout=2)
                assert is_instant or "ALTER TABLE" not in made.sql
                assert not is_instant or "INDEX" not in made.sql.replace("DROP INDEX", "")


LOCKED = "SELECT 1 FROM policies WHERE policy_id = 'p1' FOR NO KEY UPDATE"
TENANT = "INSERT INTO tenants VALUES ('u', 'u', now())"


@pytest.mark.parametrize("first", [LOCKED, TENANT, "UPDATE revisions SET step = 2"])
async def test_a_writer_of_the_version_before_and_the_migrations_end(
    database: str, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    async with catalog_of(database, monkeypatch, "0070") as pool:
        await pool.execute(REVISION, "p1", 1, "published")
        async with pool.acquire() as writer:
            async with writer.transaction():
                await writer.execute(first)
                running = asyncio.create_task(migrate(pool, schema="registry", package=PACKAGE))
                await asyncio.sleep(0.5)
                if first == TENANT:
                    await writer.execute(
                        "INSERT INTO api_keys VALUES ('k', 'u', 'k', 'k', $1, now())", bytes(32)
                    )
                else:
                    await writer.execute(REVISION, "p1", 2, "published")
                    await writer.execute("UPDATE revisions SET state = 'retired' WHERE number = 1")
            await asyncio.wait_for(running, 20)
        found = await pool.fetch("SELECT published, is_published FROM policies ORDER BY policy_id")
        assert [tuple(row) for row in found] == [(1, True), (0, False), (0, False)]
        usage = await pool.fetchrow("SELECT sum(policies), sum(keys), sum(adapters) FROM tenant_usage")
        assert tuple(usage) == ((3, 1, 1) if first == TENANT else (3, 0, 2))
        await pool.execute("UPDATE revisions SET state = 'retired'")
        assert not await pool.fetchval("SELECT bool_or(is_published) FROM policies")


HISTORY = """
    INSERT INTO aliases (policy_id, alias, sequence, number) VALUES ('p1', 'prod', 1, 1);
    INSERT INTO alias_history (policy_id, alias, sequence, digest, number, actor, reason, moved_at)
    VALUES ('p1', 'prod', 1, 'd', 1, 'a', '', now());
    INSERT INTO evaluations (evaluation_id, policy_id, number, suite, metric, value, n, actor, created_at)
    VALUES ('e', 'p1', 1, 's', 'm', 1, 1, 'a', now());
"""
OWNERS = """
    SELECT 'move', tenant_id FROM alias_history UNION ALL SELECT 'score', tenant_id FROM evaluations
    UNION ALL SELECT 'revision ' || number, faulty_tenant FROM revisions ORDER BY 1
"""


async def test_rows_of_before_get_their_tenants(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with catalog_of(database, monkeypatch, "0120") as pool:
        for number, state in enumerate(("published", "quarantined", "retired", "published"), 1):
            await pool.execute(REVISION, "p1", number, state)
        await pool.execute("UPDATE revisions SET fault = 'missing' WHERE number > 2")
        await pool.execute(HISTORY)
        await migrate(pool, schema="registry", package=PACKAGE)
        found = [tuple(row) for row in await pool.fetch(OWNERS)]
        assert found == [
            ("move", "t"),
            ("revision 1", None),
            ("revision 2", "t"),
            ("revision 3", None),
            ("revision 4", "t"),
            ("score", "t"),
        ]
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await pool.execute("UPDATE alias_history SET tenant_id = 'u'")
