"""The disk cache proves a file once, and again when it may be another one."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, store_adapter
from mint_common.adapters_format.refusal import AdapterUnreadable
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AdapterInvalid, BlobCorrupt
from services.loader.adapters.builder.disk_cache import DiskCache
from tests.testing.adapters import make_adapter, make_base_facts
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock

FACTS = make_base_facts()
GOOD = make_adapter(FACTS)


class CountingBlobs(MemoryBlobs):
    """A store that notes which files are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def get(self, claim: Claim) -> bytes:
        """Note it."""
        self.asked.append(claim.uri.rpartition("/")[2])
        return await super().get(claim)


async def stored(blobs: MemoryBlobs, export_id: str = "e") -> RevisionRef:
    claim = await store_adapter(blobs, GOOD, export_id=export_id)
    return RevisionRef(digest=GOOD.digest, number=1, manifest=claim)


def cache_at(root: Path, blobs: MemoryBlobs) -> DiskCache:
    cache = DiskCache(blobs, FACTS, root=root, capacity_bytes=1 << 30, clock=ManualClock())
    cache.open()
    return cache


def tear(path: Path) -> None:
    """Leave what a power loss may leave of a file that was not synced: its length, and zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swap(path: Path) -> None:
    """Put another file into the place, with the same size and time of the last write."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"!" + path.read_bytes()[1:])
    other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def lose(path: Path) -> None:
    path.unlink()


async def test_what_was_proved_is_neither_asked_for_nor_read_again(tmp_path: Path) -> None:
    blobs = CountingBlobs()
    revision = await stored(blobs)
    cache = cache_at(tmp_path, blobs)
    first = await cache.stage(revision)
    blobs.asked.clear()
    read_at = [path.stat().st_atime_ns for path in first.folder.iterdir()]
    assert await cache.stage(revision) == first
    assert blobs.asked == []
    assert [path.stat().st_atime_ns for path in first.folder.iterdir()] == read_at


@pytest.mark.parametrize("spoil", [tear, shorten, swap, lose])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_spoilt_file_is_found_and_fetched_again(
    tmp_path: Path, spoil: Callable[[Path], None], name: str, restarts: bool
) -> None:
    blobs = MemoryBlobs()
    revision = await stored(blobs)
    cache = cache_at(tmp_path, blobs)
    staged = await cache.stage(revision)
    spoil(staged.folder / name)
    if restarts:
        cache = cache_at(tmp_path, blobs)
    again = await cache.stage(revision)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == GOOD.files


async def test_equal_content_under_another_manifest_is_proved_by_that_one(tmp_path: Path) -> None:
    blobs = CountingBlobs()
    revision = await stored(blobs)
    cache = cache_at(tmp_path, blobs)
    await cache.stage(revision)
    other = await stored(blobs, export_id="other")
    wrong = replace(other, manifest=replace(other.manifest, sha256="0" * 64))
    with pytest.raises(BlobCorrupt):
        await cache.stage(wrong)
    blobs.asked.clear()
    await cache.stage(other)
    assert blobs.asked == [MANIFEST_FILE]


async def test_a_revision_of_another_digest_than_its_manifest_is_refused(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    wrong = replace(await stored(blobs), digest=make_adapter(FACTS, seed=3).digest)
    with pytest.raises(AdapterInvalid):
        await cache_at(tmp_path, blobs).stage(wrong)


@pytest.mark.parametrize("change", [{"rank": {"q": 2}}, {"layout": "of 2030"}], ids=["shape", "layout"])
async def test_a_manifest_of_a_newer_version_is_not_said_to_be_wrong(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """Its loads may succeed later, on this loader's next version or on another loader now."""
    blobs = MemoryBlobs()
    revision = await stored(blobs)
    newer = json.loads(GOOD.files[MANIFEST_FILE]) | change
    claim = await blobs.put_new("revisions/newer/" + MANIFEST_FILE, json.dumps(newer).encode())
    with pytest.raises(AdapterUnreadable) as caught:
        await cache_at(tmp_path, blobs).stage(replace(revision, manifest=claim))
    assert caught.value.retryable, "a load that fails so is not told as adapter.failed"
