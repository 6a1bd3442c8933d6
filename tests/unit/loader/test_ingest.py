"""Adapters of experts are packed when they are staged, whatever layout they were exported in."""

from pathlib import Path

import msgspec
import pytest

from mint_common.adapters_format import (
    BASE_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    read_manifest,
    store_adapter,
)
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import Unavailable
from services.loader.adapters.builder.disk_cache import DiskCache
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock

GOLDEN = Path(__file__).parents[2] / "golden" / "adapters"
PACKED = GOLDEN / "gravel-r2-packed"
UNPACKED = ("gravel-r2-per-expert", "gravel-r2-fused")
FACTS = msgspec.json.decode((PACKED / BASE_FILE).read_bytes(), type=BaseFacts)


class BreakingBlobs(MemoryBlobs):
    """A store that breaks when asked for weights from ``breaks_at`` on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks_at: int | None = None
        self.asked: list[tuple[str, int]] = []

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Break when told so."""
        if self.breaks_at is not None and claim.uri.endswith(WEIGHTS_FILE) and start >= self.breaks_at:
            raise Unavailable(what="the store", problem="it broke")
        self.asked.append((claim.uri, start))
        return await super().get_range(claim, start=start, size=size)


async def stored(blobs: MemoryBlobs, name: str) -> RevisionRef:
    files = {file: (GOLDEN / name / file).read_bytes() for file in (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE)}
    manifest = read_manifest(files[MANIFEST_FILE])
    adapter = AdapterFiles(files=files, digest=manifest.digest, manifest=manifest)
    claim = await store_adapter(blobs, adapter, export_id="e")
    return RevisionRef(digest=manifest.digest, number=1, manifest=claim)


def cache_at(root: Path, blobs: MemoryBlobs) -> DiskCache:
    cache = DiskCache(blobs, FACTS, root=root, capacity_bytes=1 << 30, clock=ManualClock())
    cache.open()
    return cache


@pytest.mark.parametrize("name", UNPACKED)
async def test_an_unpacked_adapter_is_served_packed_under_its_own_digest(tmp_path: Path, name: str) -> None:
    blobs = MemoryBlobs()
    revision = await stored(blobs, name)
    cache = cache_at(tmp_path, blobs)
    staged = await cache.stage(revision)
    assert staged.digest == revision.digest
    weights = (PACKED / WEIGHTS_FILE).read_bytes()
    assert (staged.folder / WEIGHTS_FILE).read_bytes() == weights
    assert staged.host_bytes == len(weights)
    assert cache.size_of(revision.digest) == len(weights) + (GOLDEN / name / WEIGHTS_FILE).stat().st_size
    assert cache_at(tmp_path, blobs).stored()[0].size_bytes == staged.size_bytes


async def test_a_packed_adapter_is_served_as_it_is(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    staged = await cache_at(tmp_path, blobs).stage(await stored(blobs, PACKED.name))
    assert [path.name for path in staged.folder.iterdir() if path.is_dir()] == []
    assert (staged.folder / MANIFEST_FILE).read_bytes() == (PACKED / MANIFEST_FILE).read_bytes()


async def test_what_was_packed_is_checked_again_and_made_anew_when_broken(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    revision = await stored(blobs, UNPACKED[0])
    cache = cache_at(tmp_path, blobs)
    staged = await cache.stage(revision)
    inode = (staged.folder / WEIGHTS_FILE).stat().st_ino
    assert (await cache.stage(revision)).folder == staged.folder
    assert (staged.folder / WEIGHTS_FILE).stat().st_ino == inode, "packed once"
    (staged.folder / WEIGHTS_FILE).write_bytes(b"torn")
    await cache.stage(revision)
    assert (staged.folder / WEIGHTS_FILE).read_bytes() == (PACKED / WEIGHTS_FILE).read_bytes()
    (staged.folder / MANIFEST_FILE).unlink()
    await cache.stage(revision)
    assert (staged.folder / MANIFEST_FILE).exists()


async def test_a_download_that_broke_goes_on_after_a_restart(tmp_path: Path) -> None:
    blobs = BreakingBlobs()
    revision = await stored(blobs, PACKED.name)
    size, step = (PACKED / WEIGHTS_FILE).stat().st_size, 100

    def cache() -> DiskCache:
        made = DiskCache(
            blobs, FACTS, root=tmp_path, capacity_bytes=1 << 30, clock=ManualClock(), range_bytes=step
        )
        made.open()
        return made

    blobs.breaks_at = size // step // 2 * step
    with pytest.raises(Unavailable):
        await cache().stage(revision)
    blobs.breaks_at = None
    staged = await cache().stage(revision)
    assert (staged.folder / WEIGHTS_FILE).read_bytes() == (PACKED / WEIGHTS_FILE).read_bytes()
    asked = [start for uri, start in blobs.asked if uri.endswith(WEIGHTS_FILE)]
    assert asked == list(range(0, size, step)), "nothing is asked for twice"


async def test_a_removed_adapter_takes_its_packed_form_along(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    cache = DiskCache(blobs, FACTS, root=tmp_path, capacity_bytes=1, clock=ManualClock())
    cache.open()
    staged = await cache.stage(await stored(blobs, UNPACKED[1]))
    await cache.trim(keep=())
    assert not staged.folder.exists()
    assert list(tmp_path.iterdir()) == []
