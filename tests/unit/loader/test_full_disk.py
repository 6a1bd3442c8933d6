"""A disk that is smaller than the cache's setting: what is not needed makes way."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mint_common.adapters_format import store_adapter
from mint_common.claims import RevisionRef
from mint_common.errors import Unavailable
from mint_common.ids import Digest
from services.loader.adapters.builder.disk_cache import DiskCache
from tests.testing.adapters import make_adapter, make_base_facts
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock

FACTS = make_base_facts()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def revision(blobs: MemoryBlobs, seed: int) -> RevisionRef:
    files = make_adapter(FACTS, seed=seed)
    manifest = await store_adapter(blobs, files, export_id=f"e{seed}")
    return RevisionRef(digest=files.digest, number=seed, manifest=manifest)


def open_cache(blobs: MemoryBlobs, disk: Path) -> DiskCache:
    cache = DiskCache(
        blobs, FACTS, root=disk / "cache", capacity_bytes=1 << 30, clock=ManualClock(), range_bytes=1
    )
    cache.open()
    return cache


async def test_a_full_disk_heals(small_disk: Path) -> None:
    blobs = MemoryBlobs()
    cache = open_cache(blobs, small_disk)
    revisions = [await revision(blobs, seed) for seed in range(1, 31)]
    keep: set[Digest] = {revisions[0].digest}
    for each in revisions:
        assert (await cache.stage(each)).digest == each.digest
        await cache.trim(keep=keep)
        assert cache.holds(revisions[0].digest)
    assert len(cache.stored()) < len(revisions)


async def test_what_broken_downloads_left_makes_way_and_counts(small_disk: Path) -> None:
    blobs = MemoryBlobs()
    cache = open_cache(blobs, small_disk)
    partials = small_disk / "cache" / ".partial"
    partials.mkdir()
    for number in range(3):
        (partials / str(number)).write_bytes(bytes(40 << 10))
        os.utime(partials / str(number), (number, number))
    each = await revision(blobs, 1)
    assert (await cache.stage(each)).digest == each.digest
    assert "0" not in [path.name for path in partials.iterdir()]
    small = DiskCache(
        blobs, FACTS, root=small_disk / "cache", capacity_bytes=20 << 10, clock=ManualClock(), range_bytes=1
    )
    small.open()
    await small.stage(await revision(blobs, 2))
    assert list(partials.iterdir()) == []


async def test_a_disk_on_which_all_is_needed_is_an_outage(small_disk: Path) -> None:
    blobs = MemoryBlobs()
    cache = open_cache(blobs, small_disk)

    async def fill() -> None:
        for seed in range(1, 31):
            await cache.stage(await revision(blobs, seed))
            await cache.trim(keep={each.digest for each in cache.stored()})

    with pytest.raises(Unavailable):
        await fill()
