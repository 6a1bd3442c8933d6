"""A running registry finds lost bytes by itself, refuses what they were of, and takes them in again."""

import asyncio

import pytest

from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.events import RevisionHealed, RevisionLost, RevisionPublished
from services.registry.app import open_registry
from tests.integration.registry.rig import TENANT, RunningRegistry, settings_of

pytestmark = pytest.mark.integration


async def test_lost_bytes_are_found_told_refused_and_healed(
    registry: RunningRegistry, shared_database: str, nats_url: str
) -> None:
    policy_id = await registry.make_policy()
    export = await registry.export(policy_id)
    await registry.tell(export)
    first = await registry.next_event()
    assert isinstance(first, RevisionPublished)
    (registry.blob_folder / export.manifest.uri).with_name(WEIGHTS_FILE).unlink()

    settings = settings_of(dsn=shared_database, nats_url=nats_url, blob_folder=registry.blob_folder)
    async with open_registry(settings) as other:
        assert other.reconciler is not None
        task = asyncio.create_task(other.reconciler.run())
        await registry.wait_for("SELECT fault = 'missing' FROM revisions")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    resolve = f"/tenants/{TENANT}/resolve?model=p"
    refused = await registry.refused("GET", resolve, status=404)
    assert (refused["code"], refused["fault"]) == ("revision_lost", "missing")
    shown = await registry.ask("GET", f"/tenants/{TENANT}/policies/p/revisions/1")
    assert isinstance(shown, dict)
    assert shown["fault"] == "missing"

    await registry.tell(await registry.export(policy_id, export_id="wave_again"))
    second = await registry.next_event()
    assert isinstance(second, RevisionPublished)
    assert second.revision.digest == first.revision.digest
    assert second.revision.manifest.uri != first.revision.manifest.uri
    resolved = await registry.ask("GET", resolve)
    assert isinstance(resolved, dict)
    assert resolved["revision"]["manifest"]["uri"] == second.revision.manifest.uri
    told = await registry.pool.fetch("SELECT subject FROM mint_outbox ORDER BY id")
    nouns = [".".join(row["subject"].split(".")[1:3]) for row in told]
    assert nouns[-3:] == [RevisionLost.type, RevisionHealed.type, RevisionPublished.type]
