"""An exported adapter is published, or rejected with the reason, exactly once."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    write_manifest,
)
from mint_common.adapters_format.manifest import canonical_json, proof_of
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.bus.nats import connect_nats
from mint_common.claims import Claim
from mint_common.errors import PreconditionFailed
from mint_common.events import Event, RevisionPublished, WaveCancelled
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId, derive_id, sha256_digest
from mint_common.runtime import retries
from mint_common.runtime.dispatch import publish_event
from services.registry.core.exports import export_cause_of
from services.registry.handlers import exports
from tests.integration.registry.rig import (
    ANSWER_SECONDS,
    BASE,
    TENANT,
    RunningRegistry,
    changed,
    running,
    settings_of,
)
from tests.testing.adapters import make_adapter, make_base_facts, make_tensors, vouched

pytestmark = pytest.mark.integration


async def test_exported_adapter_is_published(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    export = await registry.export(policy_id)
    await registry.tell(export)
    event = await registry.next_event()
    assert isinstance(event, RevisionPublished)
    assert (event.export_id, event.wave_id, event.step) == ("wave_1", "wave_1", 1)
    assert (event.revision.number, event.revision.digest) == (1, export.digest)
    assert event.revision.manifest == export.manifest
    listed = await registry.ask("GET", f"/tenants/{TENANT}/policies/p/revisions")
    assert isinstance(listed, list)
    assert [(item["number"], item["digest"], item["state"]) for item in listed] == [
        (1, export.digest, "published")
    ]


async def test_delivered_twice_is_published_once(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    export = await registry.export(policy_id)
    await registry.tell(export)
    first = await registry.next_event()
    await registry.wait_for("SELECT bool_and(published_at IS NOT NULL) FROM mint_outbox")
    # Past the bus's own deduplication: the same event as a new message.
    await registry.bus.publish(registry.bus_message(export, "again"))
    assert await registry.next_event() == first
    assert await registry.pool.fetchval("SELECT count(*) FROM revisions") == 1


async def test_a_cancelled_wave_publishes_nothing_that_the_bare_name_means(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    exports = []
    for step in (1, 2, 3):
        files = make_adapter(BASE, policy_id=policy_id, step=step, seed=step)
        exports.append(await registry.export(policy_id, export_id=f"wave_{step}", files=files))
    first, late, next_one = exports
    await registry.tell(first)
    assert isinstance(published := await registry.next_event(), RevisionPublished)
    for wave in ("wave_1", "wave_2"):  # the trainer still has the second; of the first this comes too late
        await registry.tell(cancelled(policy_id, WaveId(wave)))
    refused = export_cause_of(cancelled(policy_id, WaveId("wave_2")))
    await registry.wait_for("SELECT 1 FROM mint_inbox WHERE cause = $1", refused)
    await registry.tell(late)
    await registry.tell(next_one)
    following = await registry.next_event()
    assert isinstance(following, RevisionPublished)
    assert (following.revision.digest, following.revision.number) == (next_one.digest, 2)
    assert published.revision.digest == first.digest
    listed = await registry.ask("GET", f"/tenants/{TENANT}/policies/p/revisions")
    assert isinstance(listed, list)
    assert [item["digest"] for item in listed] == [first.digest, next_one.digest]


def cancelled(policy_id: PolicyId, wave_id: WaveId) -> WaveCancelled:
    return WaveCancelled(
        tenant_id=TENANT,
        base=BASE.name,
        wave_id=wave_id,
        job_id=JobId("job_1"),
        policy_id=policy_id,
        reason="cancelled by its user",
    )


async def test_equal_bytes_of_another_export_are_the_same_revision(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    files = make_adapter(BASE, policy_id=policy_id, step=1)
    again = make_adapter(BASE, policy_id=policy_id, step=2)
    await registry.tell(await registry.export(policy_id, export_id="wave_1", files=files))
    first = await registry.next_event()
    await registry.tell(await registry.export(policy_id, export_id="wave_2", files=again))
    second = await registry.next_event()
    assert isinstance(first, RevisionPublished)
    assert isinstance(second, RevisionPublished)
    assert second.revision == first.revision
    assert second.export_id == "wave_2"


async def test_burst_of_exports_keeps_its_order(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    exports = [await registry.export(policy_id, step=step) for step in range(1, 9)]
    await registry.tell(*exports)
    events = [await registry.next_event() for _ in exports]
    published = [event for event in events if isinstance(event, RevisionPublished)]
    assert [(event.revision.number, event.step) for event in published] == [(n, n) for n in range(1, 9)]


def altered(
    files: AdapterFiles, *, weights: bytes | None = None, config: bytes | None = None
) -> AdapterFiles:
    """Return an adapter whose manifest vouches for the given weights or config."""
    made = dict(files.files)
    made[WEIGHTS_FILE] = weights or made[WEIGHTS_FILE]
    made[CONFIG_FILE] = config or made[CONFIG_FILE]
    files_of = {CONFIG_FILE: proof_of(made[CONFIG_FILE])}
    manifest = vouched(made[WEIGHTS_FILE], replace(files.manifest, files=files_of))
    made[MANIFEST_FILE] = write_manifest(manifest)
    return AdapterFiles(files=made, digest=manifest.digest, manifest=manifest)


def with_nan(files: AdapterFiles) -> AdapterFiles:
    tensors = {name: array.copy() for name, array in make_tensors(BASE).items()}
    tensors[min(tensors)][0, 0] = np.nan
    return altered(files, weights=write_tensors(tensors))


def grown(files: AdapterFiles, factor: float) -> AdapterFiles:
    tensors = {name: array * np.float32(factor) for name, array in make_tensors(BASE).items()}
    return altered(files, weights=write_tensors(tensors))


def without_a_tensor(files: AdapterFiles) -> AdapterFiles:
    tensors = dict(make_tensors(BASE))
    del tensors[min(tensors)]
    return altered(files, weights=write_tensors(tensors))


def with_dora(files: AdapterFiles) -> AdapterFiles:
    config = json.loads(files.files[CONFIG_FILE])
    return altered(files, config=canonical_json({**config, "use_dora": True}))


MAKERS: dict[str, Callable[[PolicyId], AdapterFiles]] = {
    "not_finite": lambda policy_id: with_nan(make_adapter(BASE, policy_id=policy_id)),
    "update_too_large": lambda policy_id: grown(make_adapter(BASE, policy_id=policy_id), 100.0),
    "missing_tensor": lambda policy_id: without_a_tensor(make_adapter(BASE, policy_id=policy_id)),
    "unsupported_config": lambda policy_id: with_dora(make_adapter(BASE, policy_id=policy_id)),
    "not_safetensors": lambda policy_id: altered(
        make_adapter(BASE, policy_id=policy_id), weights=b"PK\x03\x04 no"
    ),
    "wrong_base": lambda policy_id: make_adapter(make_base_facts(name="boulder"), policy_id=policy_id),
    "wrong_rank": lambda policy_id: make_adapter(BASE, policy_id=policy_id, rank=3),
    "wrong_policy": lambda _: make_adapter(BASE, policy_id=derive_id("pol", "somebody else")),
}


@pytest.mark.parametrize("reason", MAKERS)
async def test_bad_adapter_is_rejected_with_its_reason(registry: RunningRegistry, reason: str) -> None:
    policy_id = await registry.make_policy()
    bad = await registry.export(policy_id, export_id="wave_bad", files=MAKERS[reason](policy_id))
    rejected = await registry.rejected(bad)
    assert rejected.code == "adapter_invalid"
    assert f"({reason})" in rejected.reason
    assert (rejected.export_id, rejected.wave_id, rejected.job_id) == ("wave_bad", "wave_bad", "job_1")
    assert rejected.digest == bad.digest
    row = await registry.pool.fetchrow("SELECT number, code, reason FROM exports")
    assert row is not None
    assert (row["number"], row["code"], row["reason"]) == (None, "adapter_invalid", rejected.reason)
    (good,) = await registry.publish(policy_id, 1)
    assert good.revision.number == 1


async def test_exports_are_counted_by_their_verdict(registry: RunningRegistry) -> None:
    def counted() -> list[float]:
        samples = [
            REGISTRY.get_sample_value("mint_registry_exports_total", {"verdict": "published"}),
            REGISTRY.get_sample_value("mint_registry_exports_total", {"verdict": "rejected"}),
            REGISTRY.get_sample_value("mint_registry_check_seconds_count"),
        ]
        return [value or 0.0 for value in samples]

    policy_id = await registry.make_policy()
    published, rejected, checked = counted()
    await registry.publish(policy_id, 1)
    await registry.rejected(changed(await registry.export(policy_id, step=2), step=3))
    async with asyncio.timeout(ANSWER_SECONDS):
        while counted() != [published + 1, rejected + 1, checked + 2]:
            await asyncio.sleep(0.01)


async def test_corrupt_and_missing_blobs_are_rejected(
    registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "MAX_DELAY_SECONDS", 0.02)
    policy_id = await registry.make_policy()
    export = await registry.export(policy_id)
    key = export.manifest.uri.replace(MANIFEST_FILE, WEIGHTS_FILE)
    path: Path = registry.blob_folder / key
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert (await registry.rejected(export)).code == "blob_corrupt"
    path.unlink()
    missing = await registry.rejected(changed(export, export_id="wave_2"))
    assert missing.code == "blob_missing"
    assert WEIGHTS_FILE in missing.reason


async def test_an_export_whose_bytes_come_late_is_published(registry: RunningRegistry) -> None:
    export = await registry.export(await registry.make_policy())
    path = registry.blob_folder / export.manifest.uri
    data = path.read_bytes()
    path.unlink()
    await registry.tell(export)
    await asyncio.sleep(0.5)
    path.write_bytes(data)
    assert isinstance(await registry.next_event(), RevisionPublished)


async def test_exports_wait_while_the_blob_folder_is_not_mounted(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    await registry.publish(policy_id, 1)
    export = await registry.export(policy_id, step=2)
    away = registry.blob_folder.with_name("away")
    registry.blob_folder.rename(away)
    registry.blob_folder.mkdir()
    await registry.tell(export)
    await registry.wait_for("SELECT true")
    await asyncio.sleep(2.0)
    assert await registry.pool.fetchval("SELECT count(*) FROM exports") == 1, "no verdict"
    registry.blob_folder.rmdir()
    away.rename(registry.blob_folder)
    assert isinstance(await registry.next_event(), RevisionPublished)


async def test_an_export_that_cannot_be_judged_is_rejected_so_that_nobody_waits(
    registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise PreconditionFailed(what="a bug", found="this", expected="that")

    monkeypatch.setattr(exports, "check_manifest", broken)
    export = await registry.export(await registry.make_policy())
    verdict = await registry.rejected(export)
    assert (verdict.code, "a bug" in verdict.reason) == ("precondition_failed", True)


async def test_export_that_lies_is_rejected(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    export = await registry.export(policy_id)
    lies = {
        "(wrong_digest)": changed(export, export_id="a", digest=sha256_digest(b"other")),
        "(wrong_policy)": changed(export, export_id="b", step=7),
        "(wrong_base)": changed(export, export_id="c", base=BaseName("boulder")),
        "(bad_manifest)": changed(export, export_id="d", manifest=await registry.blobs.put("x/junk", b"{}")),
        "key": changed(
            export, export_id="e", manifest=Claim(uri="../../etc/passwd", sha256="0" * 64, size_bytes=9)
        ),
        "No policy": changed(export, export_id="f", policy_id=PolicyId(derive_id("pol", "none"))),
        f"{policy_id}": changed(export, export_id="g", tenant_id=TenantId("ten_other")),
    }
    for reason, lie in lies.items():
        assert reason in (await registry.rejected(lie)).reason
    assert await registry.pool.fetchval("SELECT count(*) FROM revisions") == 0


async def test_export_keeps_its_first_answer_when_the_inbox_is_lost(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    good = await registry.export(policy_id, step=1)
    bad = changed(await registry.export(policy_id, step=2), step=3)
    await registry.tell(good)
    published = await registry.next_event()
    rejected = await registry.rejected(bad)
    await registry.pool.execute("DELETE FROM mint_inbox")
    for export, answer in ((good, published), (bad, rejected)):
        await registry.bus.publish(registry.bus_message(export, "after the loss"))
        # The same event: the bus may drop it as a duplicate, but the outbox has it.
        await _until_told_twice(registry, answer)
    assert await registry.pool.fetchval("SELECT count(*) FROM revisions") == 1


async def _until_told_twice(registry: RunningRegistry, answer: Event) -> None:
    await registry.wait_for("SELECT count(*) = 2 FROM mint_outbox WHERE event_id = $1", answer.id)
    rows = await registry.pool.fetch("SELECT data FROM mint_outbox WHERE event_id = $1", answer.id)
    bodies = [msgspec.json.decode(row["data"])["data"] for row in rows]
    assert bodies[0] == bodies[1]


async def test_what_was_exported_while_the_registry_was_down_is_published_at_its_return(
    database: str, nats_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "blobs"
    settings = settings_of(dsn=database, nats_url=nats_url, blob_folder=folder)
    async with running(settings, folder) as registry:
        policy_id = await registry.make_policy()
        await registry.publish(policy_id, 1)
        later = await registry.export(policy_id, step=2)
        again = registry.bus_message(await registry.export(policy_id, step=1), "while down")
    bus = await connect_nats(nats_url, name="trainer")
    await publish_event(bus, later, cause="test", now=0.0)
    await bus.publish(again)
    await bus.close()
    async with running(settings, folder) as registry:
        events = [await registry.next_event(), await registry.next_event()]
        published = [event for event in events if isinstance(event, RevisionPublished)]
        assert {event.export_id: event.revision.number for event in published} == {"wave_1": 1, "wave_2": 2}
