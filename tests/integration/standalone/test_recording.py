"""The recorded run of `mint up --demo`: its bytes, its base, and its rows under this version's schema."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from mint_client.core.refusals import LocalFailureError
from mint_common.adapters_format import read_base_facts
from mint_common.errors import InvalidField
from mint_common.runtime.postgres import migrate, open_pool
from services.standalone.adapters.backup import restore
from services.standalone.adapters.recording import ARCHIVE, FOLDER, read_recording, unpacked
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.replay import replay, told_of
from services.standalone.core.plan import SERVICES, BaseAt

pytestmark = pytest.mark.integration

TINY = Path(__file__).parents[3] / "bases/tiny"


def test_the_recording_is_of_the_base_that_is_shipped() -> None:
    recording = read_recording()
    assert recording.digest == read_base_facts(TINY).digest
    assert all(policy in told_of(recording) for policy in recording.policies)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "recordings")
    with (tmp_path / "recordings" / ARCHIVE).open("ab") as archive:
        archive.write(b"x")
    with (
        pytest.raises(LocalFailureError, match="not the recording of this version"),
        unpacked(tmp_path / "recordings"),
    ):
        pass


def test_another_base_of_that_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="'--demo': needs the base tiny with the digest sha256:"):
        replay(StateFolder(root=tmp_path), [BaseAt(name="other", folder="/none")])
    copy = tmp_path / "tiny"
    shutil.copytree(TINY, copy)
    facts = (copy / "mint_base.json").read_text()
    digest = read_recording().digest
    assert digest in facts
    (copy / "mint_base.json").write_text(facts.replace(digest, "sha256:" + "0" * 64))
    with pytest.raises(InvalidField, match="needs the base tiny with the digest"):
        replay(StateFolder(root=tmp_path), [BaseAt(name="tiny", folder=str(copy))])


async def test_the_recorded_rows_are_migrated_and_name_stored_blobs(
    postgres_dsn: str, tmp_path: Path
) -> None:
    name = "recorded_run"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    dsn, blobs = f"{postgres_dsn.rpartition('/')[0]}/{name}", tmp_path / "blobs"
    with unpacked() as backup:
        assert await asyncio.to_thread(restore, backup, dsn, blobs) > 10
    for service in SERVICES:
        pool = await open_pool(dsn, schema=service)
        try:
            await migrate(pool, schema=service, package=f"services.{service}.adapters.migrations")
        finally:
            await pool.close()
    connection = await asyncpg.connect(dsn)
    try:
        policies = await connection.fetch("SELECT name FROM registry.policies ORDER BY name")
        assert tuple(row["name"] for row in policies) == read_recording().policies
        states = await connection.fetch("SELECT state, count(*) FROM rollout.jobs GROUP BY state")
        assert {row["state"]: row["count"] for row in states} == {"succeeded": 2, "failed": 1}
        assert await connection.fetchval("SELECT count(*) FROM registry.api_keys") == 0
        moves = await connection.fetch("SELECT tenant_id FROM registry.alias_history WHERE alias = 'prod'")
        assert [row["tenant_id"] for row in moves] == ["default"] * 4
    finally:
        await connection.close()
