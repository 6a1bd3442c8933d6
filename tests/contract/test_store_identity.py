"""Which store is believed when bytes are missing, and how fast losses are marked."""

from dataclasses import replace
from pathlib import Path

import pytest
from contract.catalog_rig import NOW, Store, add_policy, export_of
from contract.test_blob_integrity import (
    adapter,
    faults,
    keys,
    publish,
    publish_one,
    read_all,
    reconciler,
)

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.marker import KEY, MarkedBlobs, mark, store_id
from mint_common.errors import Unavailable
from mint_common.runtime.clock import SystemClock
from services.registry.core.collection import plan_collection
from services.registry.handlers.store_identity import StoreIdentity
from tests.testing.blobs_memory import MemoryBlobs

pytestmark = pytest.mark.integration


async def test_another_store_in_the_place_of_ours_loses_nothing(store: Store, tmp_path: Path) -> None:
    policy = await add_policy(store)
    ours = LocalBlobs(tmp_path / "ours")
    await publish(store, policy, ours, 3)
    await StoreIdentity(integrity=store.integrity, blobs=ours).confirm()
    marked = await adapter_of_another_stack(tmp_path / "theirs")
    for other in (LocalBlobs(tmp_path / "not-mounted"), marked):
        with pytest.raises(Unavailable, match="3 of 3 manifests"):
            await reconciler(store, other).check_next()
    assert await faults(store, policy) == [None] * 3
    await read_all(store, ours)
    assert await faults(store, policy) == [None] * 3


async def test_a_store_that_was_copied_without_its_marker_is_known_by_what_is_in_it(store: Store) -> None:
    policy, ours, copy = await add_policy(store), MemoryBlobs(), MemoryBlobs()
    refs = await publish(store, policy, ours, 3)
    await StoreIdentity(integrity=store.integrity, blobs=ours).confirm()
    for key in await keys(ours):
        await copy.put(key, ours._blobs[key])
    await copy.delete(refs[2].manifest.uri)
    await read_all(store, copy)
    assert await faults(store, policy) == [None, None, "missing"]


async def adapter_of_another_stack(folder: Path) -> LocalBlobs:
    other = LocalBlobs(folder)
    await other.put("revisions/other", b"bytes")
    await mark(other)
    return other


async def test_bytes_that_come_back_have_the_grace_time_before_them(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    await publish(store, policy, blobs, 2)
    await store.catalog.set_state(policy, 1, "retired")
    await store.integrity._pool.execute("UPDATE revisions SET retired_at = to_timestamp(0) WHERE number = 1")
    assert await store.integrity.release_bytes(policy, 1)
    await publish_one(store, policy, blobs, 1, "again")
    _, revisions = await store.integrity.revisions_of(policy.policy_id)
    assert await faults(store, policy) == [None, None]
    kept = plan_collection(revisions, frozenset(), now=SystemClock().now() + 60, grace_seconds=3600)
    assert list(kept.collect) == []
    gone = plan_collection(revisions, frozenset(), now=SystemClock().now() + 7200, grace_seconds=3600)
    assert list(gone.collect) == [1]


async def test_a_manifest_that_only_a_newer_version_reads_is_not_wrong(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    made = adapter(policy, 1)
    newer = made.files[MANIFEST_FILE].replace(b'"rank"', b'"ranks"')
    claim = await blobs.put(f"revisions/{policy.policy_id}/aa/x/{MANIFEST_FILE}", newer)
    await store.catalog.settle_export(replace(export_of(policy, 1), manifest=claim), None, now=NOW)
    await read_all(store, blobs)
    assert await faults(store, policy) == [None]


async def test_mass_loss_stops_the_pass_and_goes_on_with_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.registry.handlers.reconciler.MAX_LOST", 2)
    monkeypatch.setattr("services.registry.handlers.reconciler.BATCH", 1)
    policy, blobs = await add_policy(store), MemoryBlobs()
    refs = await publish(store, policy, blobs, 5)
    await StoreIdentity(integrity=store.integrity, blobs=blobs).confirm()
    for ref in refs:
        await blobs.delete(ref.manifest.uri)
    made = reconciler(store, blobs)
    while await made.check_next():
        continue
    assert await faults(store, policy) == ["missing", "missing", None, None, None]
    await read_all(store, blobs)  # another process, or the next pass
    assert await faults(store, policy) == ["missing"] * 4 + [None]


async def test_a_store_of_an_older_version_that_lacks_a_manifest_is_ours(store: Store) -> None:
    policy, raw = await add_policy(store), MemoryBlobs()
    refs = await publish(store, policy, raw, 3)
    await raw.delete(refs[1].manifest.uri)
    await StoreIdentity(integrity=store.integrity, blobs=MarkedBlobs(raw)).confirm()
    assert await store_id(raw) is not None


async def test_a_marker_that_was_removed_comes_back_with_its_id(store: Store) -> None:
    policy, raw = await add_policy(store), MemoryBlobs()
    await publish(store, policy, raw, 1)
    identity = StoreIdentity(integrity=store.integrity, blobs=MarkedBlobs(raw))
    await identity.confirm()
    known = await store_id(raw)
    await raw.delete(KEY)
    await identity.confirm()
    assert await store_id(raw) == known


async def test_an_empty_folder_is_not_ours_when_no_sound_revision_tells(store: Store) -> None:
    first = StoreIdentity(integrity=store.integrity, blobs=MemoryBlobs())
    await first.confirm()
    identity = StoreIdentity(integrity=store.integrity, blobs=MarkedBlobs(MemoryBlobs()))
    with pytest.raises(Unavailable, match="0 of 0 manifests"):
        await identity.confirm()  # nothing was published yet
    restored = MemoryBlobs()
    await restored.put("training/a", b"of a backup without the marker")
    await StoreIdentity(integrity=store.integrity, blobs=restored).confirm()
    policy = await add_policy(store)
    await publish(store, policy, MemoryBlobs(), 2)
    await store.integrity._pool.execute("UPDATE revisions SET fault = 'missing'")
    await identity.blobs.put("training/a", b"hidden")
    with pytest.raises(Unavailable, match="0 of 0 manifests"):
        await identity.confirm()
