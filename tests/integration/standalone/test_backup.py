"""A backup of a registry with aliases, restored to a fresh stack: every name means what it meant."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from mint_client.core.refusals import LocalFailureError
from mint_common.adapters_format import check_folder, stage_adapter
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, SettingInvalid
from mint_common.runtime.postgres import migrate, open_pool
from services.standalone.adapters.backup import DatabaseInUse, back_up
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import postgres_launch, prepare_postgres
from tests.integration.registry.rig import BASE, KEY, TENANT, RunningRegistry, running, settings_of
from tests.own_servers import RunningServer

pytestmark = pytest.mark.integration
POLICIES = 3


async def _fill(registry: RunningRegistry) -> None:
    policies = [await registry.make_policy(f"p{number}") for number in range(POLICIES)]
    for policy_id in policies:
        await registry.publish(policy_id, 3)
    for policy_id in policies:
        path = f"/tenants/{TENANT}/policies/{policy_id}/aliases/prod"
        for revision in (1, 3, 2):
            await registry.ask("PUT", path, {"revision": revision, "reason": "r"})
        await registry.ask("POST", f"{path}/rollback", {"reason": "back"})


async def _add_webhook(dsn: str) -> None:
    pool = await open_pool(dsn, schema="gateway")
    try:
        await migrate(pool, schema="gateway", package="services.gateway.adapters.migrations")
        await pool.execute(
            "INSERT INTO webhooks (webhook_id, tenant_id, url, event_types, description, secret, created_at)"
            " VALUES ('hook_a', $1, 'https://ci', '{}', '', 's', 0)",
            TENANT,
        )
    finally:
        await pool.close()


async def _meanings(registry: RunningRegistry) -> dict[str, object]:
    found: dict[str, object] = {"key": await registry.ask("POST", "/keys/verify", {"key": KEY})}
    for number in range(POLICIES):
        name = f"p{number}"
        for model in (name, f"{name}@prod", f"{name}@1", f"{name}@3"):
            path = f"/tenants/{TENANT}/resolve?model={model}"
            found[model] = await registry.ask("GET", path)
        alias = await registry.ask("GET", f"/tenants/{TENANT}/policies/{name}/aliases/prod")
        found[f"history of {name}"] = alias["history"]  # type: ignore[index]  # JSON
    return found


async def _check_bytes(registry: RunningRegistry, folder: Path) -> None:
    for number in range(POLICIES):
        revisions = await registry.ask("GET", f"/tenants/{TENANT}/policies/p{number}/revisions")
        assert len(revisions) == 3  # type: ignore[arg-type]  # JSON
    rows = await registry.pool.fetch("SELECT * FROM revisions")
    for row in rows:
        claim = Claim(
            uri=row["manifest_uri"], sha256=row["manifest_sha256"], size_bytes=row["manifest_size_bytes"]
        )
        staged = folder / row["digest"][7:]
        manifest = await stage_adapter(registry.blobs, claim, staged)
        check_folder(BASE, manifest, staged)
        assert manifest.digest == row["digest"]


def invoke(*arguments: str) -> object:
    """Run a command away from this test's event loop."""
    return CliRunner().invoke(app, list(arguments))


def test_a_database_that_the_server_lacks_is_a_wrong_setting(postgres_dsn: str, tmp_path: Path) -> None:
    absent = postgres_dsn.rpartition("/")[0] + "/absent"
    with pytest.raises(SettingInvalid, match='MINT_POSTGRES_DSN: database "absent" does not exist'):
        back_up(absent, tmp_path / "blobs", tmp_path / "backup")


async def test_every_alias_of_a_restored_stack_means_what_it_meant(
    database: str, nats_url: str, server_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, target, state = tmp_path / "blobs", tmp_path / "backup", server_folder / "restored"
    async with running(settings_of(dsn=database, nats_url=nats_url, blob_folder=blobs), blobs) as registry:
        await _fill(registry)
        await _add_webhook(database)
        before = await _meanings(registry)
        monkeypatch.setenv("MINT_POSTGRES_DSN", database)
        monkeypatch.setenv("MINT_BLOBS_URL", blobs.as_uri())
        made = await asyncio.to_thread(invoke, "backup", str(target), "--dir", str(tmp_path / "none"))
        assert made.exit_code == 0, (made.output, made.exception)
        again = await asyncio.to_thread(invoke, "backup", str(target), "--dir", str(tmp_path / "none"))
        assert isinstance(again.exception, AlreadyExists)
    monkeypatch.delenv("MINT_POSTGRES_DSN")
    monkeypatch.delenv("MINT_BLOBS_URL")

    # A restoration that breaks off leaves the database empty: the next one finds it so.
    damaged = tmp_path / "damaged"
    shutil.copytree(target, damaged)
    os.truncate(damaged / "database.dump", (damaged / "database.dump").stat().st_size * 3 // 4)
    broken = await asyncio.to_thread(invoke, "restore", str(damaged), "--dir", str(state))
    assert isinstance(broken.exception, LocalFailureError), (broken.output, broken.exception)

    restored = await asyncio.to_thread(invoke, "restore", str(target), "--dir", str(state))

    assert restored.exit_code == 0, (restored.output, restored.exception)
    twice = await asyncio.to_thread(invoke, "restore", str(target), "--dir", str(state))
    assert isinstance(twice.exception, DatabaseInUse)
    prepare_postgres(state / "postgres")
    launch = postgres_launch(state / "postgres", free_port())
    dsn = launch.ready_dsn
    server = RunningServer(launch, dsn, tmp_path / "log")
    await asyncio.to_thread(server.start)
    try:
        pool = await open_pool(dsn, schema="gateway")
        assert await pool.fetchval("SELECT state FROM webhooks") == "paused"
        await pool.close()
        fresh = settings_of(dsn=dsn, nats_url=nats_url, blob_folder=state / "blobs")
        async with running(fresh, state / "blobs") as registry:
            assert await _meanings(registry) == before
            await _check_bytes(registry, tmp_path / "staged")
            await registry.publish(await registry.make_policy("later"), 1)
    finally:
        await asyncio.to_thread(server.stop)
