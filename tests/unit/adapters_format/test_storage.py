"""Storing adapters and staging them from there."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    fetch_manifest,
    stage_adapter,
    store_adapter,
)
from mint_common.errors import AdapterInvalid, AlreadyExists, BlobCorrupt, BlobMissing
from tests.testing.adapters import make_adapter, make_base_facts
from tests.testing.blobs_memory import MemoryBlobs

FACTS = make_base_facts()
GOOD = make_adapter(FACTS)


async def test_stored_adapter_is_staged_as_it_was(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    digits = GOOD.digest.removeprefix("sha256:")
    assert claim.uri == f"revisions/pol_made/{digits[:2]}/{digits}-wav_1/{MANIFEST_FILE}"
    assert await stage_adapter(blobs, claim, tmp_path / "a") == GOOD.manifest
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == GOOD.files
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


async def test_storing_again_changes_nothing_and_never_overwrites() -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    assert await store_adapter(blobs, GOOD, export_id="wav_1") == claim
    with pytest.raises(AlreadyExists):
        await store_adapter(blobs, make_adapter(FACTS, step=2), export_id="wav_1")


async def test_staged_folder_is_kept_when_whole_and_repaired_when_not(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    folder = tmp_path / "a"
    await stage_adapter(blobs, claim, folder)
    inode = (folder / WEIGHTS_FILE).stat().st_ino
    await stage_adapter(blobs, claim, folder)
    assert (folder / WEIGHTS_FILE).stat().st_ino == inode
    (folder / WEIGHTS_FILE).write_bytes(b"half")
    (folder / CONFIG_FILE).unlink()
    await stage_adapter(blobs, claim, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD.files


async def test_many_may_stage_into_one_folder_at_once(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "left over").touch()
    await asyncio.gather(*(stage_adapter(blobs, claim, tmp_path / "a") for _ in range(16)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == GOOD.files
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE])
async def test_corrupt_or_missing_blob_leaves_no_folder(tmp_path: Path, name: str) -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    key = claim.uri.replace(MANIFEST_FILE, name)
    await blobs.put(key, GOOD.files[name][:-1] + b"!")
    with pytest.raises(BlobCorrupt):
        await stage_adapter(blobs, claim, tmp_path / "a")
    await blobs.delete(key)
    with pytest.raises(BlobMissing):
        await stage_adapter(blobs, claim, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


async def test_huge_manifest_is_refused_unread() -> None:
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, GOOD, export_id="wav_1")
    with pytest.raises(AdapterInvalid) as refused:
        await fetch_manifest(blobs, replace(claim, size_bytes=10**9))
    assert refused.value.reason == "bad_manifest"
